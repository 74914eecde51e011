"""The requests of a plan that have no answer yet, counted where the answers are."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench.errors import StoreError
from pytest_kvbench.store.database import BUSY_S
from pytest_kvbench.store.reader import copy_of, writable


@dataclass(frozen=True)
class Count:
    """Requests of a plan; `old` are those of the `failed` that failed before the last run."""

    planned: int
    answered: int
    failed: int
    old: int

    @property
    def settled(self) -> int:
        """Those with an answer or a failure."""
        return self.answered + self.failed

    @property
    def missing(self) -> int:
        """Requests that have neither an answer nor a failure."""
        return self.planned - self.settled


class Outstanding:
    """The keys of a plan without those that were answered when one last looked.

    SQLite's own temporary file holds them, so that a hundred thousand need no memory.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._db = sqlite3.connect("", timeout=BUSY_S, isolation_level=None, uri=True)
        self._db.execute("PRAGMA main.journal_mode=OFF")
        self._db.execute("CREATE TABLE remaining (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.executemany("INSERT OR IGNORE INTO remaining VALUES (?)", ((key,) for key in keys))
        (self._planned,) = self._db.execute("SELECT count(*) FROM remaining").fetchone()

    def look(self, database: Path, began: str) -> Count:
        """What a group's database has of them by now. Only reads there, and holds nothing.

        Args:
            database: the group's.
            began: when its last run did.

        Raises:
            StoreError: it cannot be read.
        """
        with self._beside(database) as db:
            # An answer stays for ever: each look has less to look for.
            db.execute(
                "DELETE FROM main.remaining WHERE EXISTS"
                " (SELECT 1 FROM theirs.answers a WHERE a.key = remaining.key)"
            )
            (left,) = db.execute("SELECT count(*) FROM main.remaining").fetchone()
            # Stored with `Z`, begun with `+00:00`: the same up to the milliseconds.
            failed, old = db.execute(
                "SELECT count(*), count(*) FILTER (WHERE substr(f.created_at, 1, 23) < ?)"
                " FROM main.remaining JOIN theirs.failures f USING (key)",
                (began[:23],),
            ).fetchone()
        return Count(self._planned, self._planned - left, failed, old)

    def close(self) -> None:
        """Forget the keys."""
        self._db.close()

    @contextlib.contextmanager
    def _beside(self, database: Path) -> Iterator[sqlite3.Connection]:
        copy = None if writable(database) else copy_of(database)
        at = copy.path if copy else database
        try:
            # Writable, so that the last to leave takes the WAL along; nothing is written.
            self._db.execute("ATTACH ? AS theirs", (f"{at.absolute().as_uri()}?mode=rw",))
            try:
                yield self._db
            finally:
                self._db.execute("DETACH theirs")
        except sqlite3.Error as error:
            raise StoreError(
                f"{database}: cannot be read: {error}",
                "restore it from an archive: kvbench restore",
            ) from error
