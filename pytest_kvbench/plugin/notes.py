"""What a process does before there are answers to count: a note in the run's folder.

The process that prepares a group leaves it, the one that owns the terminal shows it.
"""

from __future__ import annotations

import contextlib

from pytest_kvbench.errors import StoreError
from pytest_kvbench.files import replace_text, run_folder

_SUFFIX = ".note"


def leave(run_id: str, group: str, line: str) -> None:
    """Leave a note in place of the one before; an empty one takes it away.

    One that cannot be left is no reason to disturb a run.
    """
    folder = run_folder(run_id)
    file = folder / f"{group}{_SUFFIX}"
    with contextlib.suppress(StoreError, OSError):
        if not line:
            file.unlink(missing_ok=True)
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_text(file, line)


def left(run_id: str) -> str:
    """The note of a run, the first by group; "" where there is none."""
    for file in sorted(run_folder(run_id).glob(f"*{_SUFFIX}")):
        with contextlib.suppress(OSError):  # it was taken away meanwhile
            return file.read_text(encoding="utf-8")
    return ""
