"""Waiting for what another process does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], Any], seconds: float = 120, every_s: float = 0.05) -> Any:
    """What `condition` comes to, once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every_s)
    raise AssertionError("it did not happen in time")


def answered(database: Path) -> int:
    """How many answers a group has, which may only be in the making."""
    if not database.exists():
        return 0
    with sqlite3.connect(database) as db:
        try:
            return int(db.execute("select count(*) from answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0
