"""Folders whose meta.json has the digests of what is in them: damage is found by content.

Times are the exception: `timings.json` only has to be there and readable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pytest_kvbench.ops.run_rows import Entry
from pytest_kvbench.records import digest

META, ANALYSIS, TIMINGS = "meta.json", "analysis.json", "timings.json"
SEAL = "sha256"


def sealed(meta: Entry, files: Mapping[str, bytes]) -> Entry:
    """The meta with the digests of other files by name, and of itself."""
    digests = {name: _sha(content) for name, content in files.items()}
    return cast("Entry", {**meta, SEAL: {**digests, META: digest(meta)}})


def damage(folder: Path) -> str:
    """What is wrong with a folder, in words; empty where it is as it was written."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        seal = dict(meta.pop(SEAL))
        if seal.pop(META) != digest(meta) or meta["id"] != folder.name:
            return f"{META} was changed"
        timed = meta["kind"] != "target"
    except FileNotFoundError:
        return f"{META} is missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{META} is unreadable"
    wrong = (_differs(folder / name, found) for name, found in sorted(seal.items()))
    return next(filter(None, wrong), "") or (_untimed(folder / TIMINGS) if timed else "")


def _differs(file: Path, expected: object) -> str:
    try:
        return "" if _sha(file.read_bytes()) == expected else f"{file.name} was changed"
    except OSError:
        return f"{file.name} is missing"


def _untimed(file: Path) -> str:
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{file.name} is missing or unreadable"
    return "" if isinstance(found, dict) and "wall_s" in found else f"{file.name} has no wall_s"


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
