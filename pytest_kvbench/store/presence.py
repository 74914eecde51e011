"""Who is at work on a group: whoever holds a lock in its folder.

Processes that ask for answers hold `.at-work.lock` together, for as long as they may ask; who
prepares a group or handles its batches has a lock of its own. All of them are the operating
system's: those of the dead are free.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from pytest_kvbench.files import writing

LOCK = ".at-work.lock"


class Presence:
    """Shows others that this process is at work on a group, until it is closed or the process ends.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        with writing(path):
            self._file = path.open("ab")
            fcntl.flock(self._file, fcntl.LOCK_SH)

    def close(self) -> None:
        """End the presence: this process is not at work any more."""
        self._file.close()


def at_work(folder: Path) -> bool:
    """Whether a process prepares a group, asks for its answers, or handles its batches."""
    return any(_held(lock) for lock in folder.glob(".*.lock"))


def _held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # it is gone, or this file system has no locks
    return False
