"""What was counted before, by whatever process of this user: by tokenizer and the text's hash.

It only saves work. Where the file cannot be read or written nothing is remembered, and where it
grows beyond its size the older half is forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

LIMIT_BYTES = 32 * 2**20
"""Size above which the older half goes."""

_FILE = "tokens.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS counted (key BLOB PRIMARY KEY, value TEXT NOT NULL)"
_HALVE = "DELETE FROM counted WHERE rowid <= (SELECT (min(rowid) + max(rowid)) / 2 FROM counted)"
_TOGETHER = 500
_WAIT_S = 2.0


class Counted:
    """Lists of numbers by key, here and on disk.

    Args:
        folder: of the file; None: nothing is remembered beyond this object.
        tokenizer: the name of the tokenizer; counts of two names are kept apart.
    """

    def __init__(self, folder: Path | None, tokenizer: str) -> None:
        self._path = folder / _FILE if folder else None
        self._tokenizer = tokenizer
        self._counts: dict[bytes, list[int]] = {}
        self._new: dict[bytes, list[int]] = {}

    def key(self, kind: str, text: str) -> bytes:
        """The key of a `kind` of count of a text, by this tokenizer."""
        name = json.dumps([self._tokenizer, kind]).encode()
        return hashlib.blake2b(name + text.encode(errors="surrogatepass"), digest_size=16).digest()

    def get(self, key: bytes) -> list[int] | None:
        """The counts kept under a key; None where none were loaded or put."""
        return self._counts.get(key)

    def put(self, key: bytes, value: list[int]) -> None:
        """Keep counts under a key; `save` writes them."""
        self._counts[key] = self._new[key] = value

    def load(self, keys: Iterable[bytes]) -> None:
        """Read the counts of some keys from disk, where they are not here."""
        unknown = [key for key in dict.fromkeys(keys) if key not in self._counts]
        if unknown and self._path and self._path.exists():
            _use(self._path, lambda database: self._read(database, unknown))

    def _read(self, database: sqlite3.Connection, keys: Sequence[bytes]) -> None:
        for start in range(0, len(keys), _TOGETHER):
            some = keys[start : start + _TOGETHER]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, value FROM counted WHERE key IN ({marks})"  # noqa: S608 -- marks
            for key, value in database.execute(query, some):
                self._take(key, value)

    def _take(self, key: bytes, value: object) -> None:
        with contextlib.suppress(ValueError, TypeError):
            numbers = json.loads(str(value))
            if all(type(number) is int and number >= 0 for number in numbers):
                self._counts[key] = list(numbers)

    def save(self) -> None:
        """Write the counts that were put since the last time."""
        new, self._new = self._new, {}
        if new and self._path:
            rows = [
                (key, json.dumps(value, separators=(",", ":"))) for key, value in tuple(new.items())
            ]
            _use(self._path, lambda database: _write(database, rows))


def _use(path: Path, work: Callable[[sqlite3.Connection], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_S)) as database, database:
            work(database)
    except (sqlite3.OperationalError, OSError):
        return  # locked, read-only, full, or not there yet
    except sqlite3.DatabaseError:
        with contextlib.suppress(OSError):  # no database: it is made anew next time
            path.unlink()


def _write(database: sqlite3.Connection, rows: Sequence[tuple[bytes, str]]) -> None:
    database.execute(_TABLE)
    database.executemany("INSERT OR REPLACE INTO counted VALUES (?, ?)", rows)
    if _size(database) > LIMIT_BYTES:
        database.execute(_HALVE)


def _size(database: sqlite3.Connection) -> int:
    page, pages, free = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * (pages - free)
