"""Has classes read by a process of its own, and remembers what it found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_kvbench.files import locked, replace_json
from pytest_kvbench.own import reader


def read_once(file: Path, arguments: Sequence[str]) -> Any:
    """What `file` has; where it is not there yet, it is written by the process that reads.

    Raises:
        UsageError: the process failed; the second line is its own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        with locked(file.with_suffix(".lock")):
            if not file.exists():
                replace_json(file, read(arguments))
    return json.loads(file.read_text(encoding="utf-8"))


def read(arguments: Sequence[str]) -> Any:
    """What the process that imports kvpress says, as JSON.

    Raises:
        UsageError: it failed; the message is its own.
    """
    return reader.read("server.reading", *arguments, what="policies")
