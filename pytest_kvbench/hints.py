"""Words of the user and for the user: next commands to paste, near names, time spans, counts."""

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


def count(number: int, noun: str) -> str:
    """`1 cell`, `3 cells`, `2 policies`, `2 batches`."""
    return f"{number:,} {noun if number == 1 else _several(noun)}"


def part(number: int, total: int, noun: str) -> str:
    """`1 of 6 pairs`, `1 of 1 pair`."""
    return f"{number:,} of {count(total, noun)}"


def are(number: int) -> str:
    """`is` of one, `are` of any other number."""
    return "is" if number == 1 else "are"


def were(number: int) -> str:
    """`was` of one, `were` of any other number."""
    return "was" if number == 1 else "were"


def lost(number: int, total: int) -> str:
    """How many pairs there is nothing to compare of."""
    return f"{part(number, total, 'pair')} {were(number)} lost to failures"


def have(number: int) -> str:
    """`has` of one, `have` of any other number."""
    return "has" if number == 1 else "have"


def _several(noun: str) -> str:
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("ch", "x")) else f"{noun}s"


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
