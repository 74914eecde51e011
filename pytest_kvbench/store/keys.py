"""Sets of request keys, with the batch each is in: on disk, so that a million need no memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

_CHUNK = 256  # keys at a time


class Keys:
    """A set of keys that lives as long as this object.

    SQLite's own temporary file holds it, which is in memory while it is small.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute(
            "CREATE TABLE keys (key TEXT PRIMARY KEY, batch TEXT NOT NULL, marked INTEGER NOT NULL"
            " DEFAULT 0) WITHOUT ROWID"
        )

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM keys").fetchone()[0])

    def add(self, keys: Iterable[str], batch: str = "") -> None:
        """Add keys; one that is there already stays with its batch."""
        rows = [(key, batch) for key in keys]
        self._db.executemany("INSERT OR IGNORE INTO keys (key, batch) VALUES (?,?)", rows)

    def batches(self, keys: Sequence[str]) -> dict[str, str]:
        """The batch of each of `keys` that is there."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), _CHUNK):
            some = keys[start : start + _CHUNK]
            places = ",".join("?" * len(some))
            query = f"SELECT key, batch FROM keys WHERE key IN ({places})"  # noqa: S608 -- marks
            found.update(self._db.execute(query, some).fetchall())
        return found

    def mark(self, keys: Iterable[str]) -> None:
        """Mark the requests of these keys: `unmarked` gives the others."""
        self._db.executemany("UPDATE keys SET marked=1 WHERE key=?", [(key,) for key in keys])

    def unmarked(self) -> Iterator[list[str]]:
        """The keys that were not marked, some at a time."""
        cursor = self._db.execute("SELECT key FROM keys WHERE marked=0")
        while rows := cursor.fetchmany(_CHUNK):
            yield [key for (key,) in rows]

    def close(self) -> None:
        """Forget all keys; the file that holds them goes."""
        self._db.close()
