"""Words of the user and for the user: next commands to paste, near names, time spans."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

SPANS = "90s, 30m, 12h, 30d, 2w"
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_of(text: str) -> float | None:
    """A time span in seconds: one of `SPANS`; None where it is none."""
    found = _SPAN.fullmatch(text)
    return float(found[1]) * _UNITS_S[found[2]] if found else None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`did you mean NAME? `, of the nearest; "" where none is near.

    Letters in another order are nearer than any that lack: `modle` is model, not mode.
    """
    near = difflib.get_close_matches(word, list(names), n=3)
    near.sort(key=lambda name: sorted(name) != sorted(word))
    return f"did you mean {near[0]}? " if near else ""


def default_reports() -> Path:
    """The folder in which groups are kept where none is named."""
    return Path(os.environ.get("KVBENCH_DIR", "reports"))


def command(stage: str, folder: Path) -> str:
    """`kvbench STAGE GROUP`, with `--dir` where the group is not below the default folder.

    Args:
        stage: a command's name: `run`, `batch fetch`.
        folder: the group's.
    """
    return _pasted(stage, folder.name, folder.absolute().parent)


def command_of_file(stage: str, file: Path, reports: Path) -> str:
    """`kvbench STAGE FILE.yaml` likewise, of an experiment whose group is below `reports`."""
    return _pasted(stage, str(file), reports.absolute())


def _pasted(stage: str, target: str, reports: Path) -> str:
    words = ["kvbench", *stage.split(), target]
    if reports.resolve() != default_reports().resolve():
        here = Path.cwd()
        shown = reports.relative_to(here) if reports.is_relative_to(here) else reports
        words += ["--dir", str(shown)]
    return shlex.join(words)
