"""One SQLite file: made whole, opened only if it can be trusted, its troubles in two lines.

What is there is never overwritten: a file that is empty, damaged, foreign, or of another version is
refused.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import StoreError
from pytest_kvbench.files import unfinished_file, writing
from pytest_kvbench.store.reader import copy_of, writable
from pytest_kvbench.wire import sound

BUSY_S = 60.0
"""How long one statement waits for another process to finish its own."""

_CHECKPOINT_PAGES = 10_000
"""Of the WAL, 40 MB. Keys are hashes, so new rows go anywhere: at SQLite's 1,000 pages every few
hundred answers wait for the disk, and a file of 600,000 takes half as many a second."""

_FORMAT_VERSIONS, _WAL = slice(18, 20), b"\2\2"
"""Where a file's header says who may write and read it, and what it says in WAL mode."""

_NOT_OVERWRITTEN = (
    "move the file away, or restore it from an archive (kvbench restore FILE); "
    "it is never overwritten"
)
_CODE = """
    SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view') UNION ALL
    SELECT 'columns', m.name, '' FROM sqlite_master m, pragma_table_xinfo(m.name) x
    WHERE m.type = 'table' AND x.hidden
"""
"""What computes: triggers, views, and tables with columns that are computed."""

_CAUSES = {
    "SQLITE_BUSY": ("another process holds it", "end that process, then run again"),
    "SQLITE_FULL": ("the disk is full", "free the disk, then run again: what was answered stays"),
    "SQLITE_READONLY": (
        "its folder or file is read-only",
        "make it writable, or keep groups elsewhere: --kvbench-dir DIR",
    ),
    "SQLITE_CANTOPEN": (
        "its folder cannot be used",
        "make it writable, or keep groups elsewhere: --kvbench-dir DIR",
    ),
    "SQLITE_CORRUPT": ("it is damaged", _NOT_OVERWRITTEN),
    "SQLITE_NOTADB": ("it cannot be used as a database", _NOT_OVERWRITTEN),
    "SQLITE_ERROR": ("it is not as kvbench made it", _NOT_OVERWRITTEN),
}
_NO_TEXT = "Could not decode to UTF-8"
"""Python's word for a column that is no text; of SQLite's own messages it cannot read some."""


@dataclass(frozen=True)
class Schema:
    """How a new file is made; a file of another version is refused."""

    version: int
    script: str

    def has_table(self, name: str) -> bool:
        """Whether a table is one of ours; SQLite knows no capitals."""
        return f"create table {name} (".lower() in self.script.lower()

    def empty(self) -> bytes:
        """A database of this schema without a row, in WAL mode from its first byte on.

        Who changes the mode of a file that others have open is told at once that it is locked:
        SQLite does not wait there. So the mode is written with the file
        (https://www.sqlite.org/fileformat2.html, 1.3.3).
        """
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            db.executescript(self.script)
            db.execute(f"PRAGMA user_version={self.version}")
            image = bytearray(db.serialize())
        image[_FORMAT_VERSIONS] = _WAL
        return bytes(image)


class Database:
    """An open connection. It may move between threads, but is for one at a time.

    Who only `reads` what may not be written has a copy of it, see `reader`.

    Raises:
        StoreError: the file cannot be made, opened or trusted.
    """

    def __init__(self, path: Path, schema: Schema, *, reads: bool = False) -> None:
        self.path = path
        self._schema = schema
        if not path.exists():
            self._create()
        if not path.stat().st_size:
            raise StoreError(
                f"{path}: is empty: a database was there, and its content is gone", _NOT_OVERWRITTEN
            )
        self._copy = copy_of(path) if reads and not writable(path) else None
        file = path if self._copy is None else self._copy.path
        with self._explained():
            self._db = sqlite3.connect(
                f"{file.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def again(self) -> Database:
        """Another connection to the same file, to read by."""
        return Database(self.path, self._schema, reads=True)

    def close(self) -> None:
        """Close the connection; committed rows are already safe."""
        self._db.close()

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query."""
        with self._explained():
            return self._db.execute(query, values).fetchall()

    def parsed(self, text: str, kind: type = object) -> Any:
        """What a column of JSON holds.

        Raises:
            StoreError: it is no JSON, or of another kind.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"JSON that cannot be read: {error}") from None
        if not isinstance(found, kind):
            raise self.damaged(f"{type(found).__name__} in place of a {kind.__name__} of JSON")
        return found

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that takes the write lock at its start, so that it cannot deadlock."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise

    def check(self) -> None:
        """Read every page, compare tables with their indexes, follow every reference.

        Raises:
            StoreError: something is damaged; the first finding is named.
        """
        found = self.read("PRAGMA integrity_check(1)")[0][0]
        if found != "ok":
            raise self.damaged(str(found).splitlines()[-1])
        if lost := self.read("PRAGMA foreign_key_check"):
            table, _, parent, _ = lost[0]
            raise self.damaged(f"{len(lost):,} rows ({table}, ...) name no row of {parent}")

    def damaged(self, found: str) -> StoreError:
        """The error of a file in which something was found that cannot be."""
        return StoreError(f"{self.path}: it is damaged: {found}", _NOT_OVERWRITTEN)

    def _open(self) -> None:
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA trusted_schema=OFF")
        self._refuse_code()
        self._refuse_version()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if self._copy is not None:
            self._db.execute("PRAGMA query_only=ON")  # what is written to a copy would be lost

    def _create(self) -> None:
        """Make the file whole before it gets its name, so that a file without content is damage."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished_file(self.path.parent) as temporary:
                temporary.write_bytes(self._schema.empty())
                with contextlib.suppress(FileExistsError):  # another process was first
                    self.path.hardlink_to(temporary)

    def _refuse_version(self) -> None:
        version, newest = self._version(), self._schema.version
        if version == 0:
            raise StoreError(f"{self.path}: is a database, but none of kvbench", _NOT_OVERWRITTEN)
        if version > newest:
            raise StoreError(
                f"{self.path}: has schema version {version}, known here: {newest}",
                "install a newer pytest-kvbench",
            )
        if version < newest:
            raise StoreError(
                f"{self.path}: was made by an earlier, unreleased version (schema {version}, "
                f"known here: {newest})",
                "move its folder away and run again, or read it with the version that made it",
            )

    def _refuse_code(self) -> None:
        """Refuse views and triggers that are not ours: they could change what is read."""
        ours = self._schema.script
        for kind, name, code in self._db.execute(_CODE):
            expected = code in ours if kind == "trigger" else not self._schema.has_table(name)
            if not expected:
                raise StoreError(
                    f"{self.path}: {name!r} computes there: in no database of kvbench it does",
                    _NOT_OVERWRITTEN,
                )

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _explain(self.path, error) from error


def copy_database(path: Path, target: Path) -> None:
    """A consistent copy of a database that others may be writing to.

    The same content gives the same bytes, whatever part of it is still in the WAL.

    Raises:
        StoreError: it cannot be read, or the copy cannot be written.
    """
    copied = None if writable(path) else copy_of(path)
    file = path if copied is None else copied.path
    try:
        with (
            contextlib.closing(sqlite3.connect(file, timeout=BUSY_S)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _explain(path, error) from error


def _explain(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
    found = sound.message(str(error))
    if isinstance(error, UnicodeDecodeError) or _NO_TEXT in found:
        return StoreError(f"{path}: it is damaged: {found}", _NOT_OVERWRITTEN)
    name = getattr(error, "sqlite_errorname", "")  # extended: SQLITE_BUSY_SNAPSHOT
    for code, (cause, hint) in _CAUSES.items():
        if name.startswith(code):
            return StoreError(f"{path}: {cause}: {found}", hint)
    return StoreError(
        f"{path}: cannot be used: {found}",
        "free the disk or the lock, then run again: what was answered stays",
    )
