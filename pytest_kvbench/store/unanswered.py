"""A copy of a group's database in which some requests have not been answered yet."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from pytest_kvbench.store.database import copy_database

_OUTCOMES = ("scores", "telemetry", "answers", "failures")
"""In this order: each refers to a later one."""


def copy_unanswered(database: Path, target: Path, keys: Iterable[str]) -> None:
    """Copy a database without what came of the requests `keys`; the original stays as it is.

    Raises:
        StoreError: it cannot be read, or the copy cannot be written.
    """
    copy_database(database, target)
    gone = [(key,) for key in keys]
    with contextlib.closing(sqlite3.connect(target)) as copy, copy:
        for table in _OUTCOMES:
            copy.executemany(f"DELETE FROM {table} WHERE key = ?", gone)  # noqa: S608 -- ours
