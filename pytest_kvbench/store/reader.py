"""A database that may be read and not written, as a copy in a place of our own.

SQLite wants to write where it reads: a database with a WAL needs a file beside it. A user who may
only read, of a colleague's folder or an archive on a read-only disk, gets none; so a database and
its WAL are copied as of one moment.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

from pytest_kvbench.errors import StoreError
from pytest_kvbench.files import may_write, scratch

_TRIES = 5
_KEPT = 4  # copies at hand: a command opens the same few groups again and again

_Stamp = tuple[tuple[int, ...], ...]


class Copy:
    """A copy of a database; its file is gone when nobody uses the copy any more."""

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            self.path = stack.enter_context(scratch()) / path.name
            _copy(path, self.path)
            weakref.finalize(self, stack.pop_all().close)


def writable(path: Path) -> bool:
    """Whether SQLite may write a database: its file, and files beside it."""
    return may_write(path) and may_write(path.parent)


def copy_of(path: Path) -> Copy:
    """The copy of a database as it is now; the same one for as long as nothing is written to it.

    Raises:
        StoreError: it cannot be read, or does not stand still.
    """
    with _explained(path):
        return _copied(path, _stamp(path))


@functools.lru_cache(_KEPT)
def _copied(path: Path, _: _Stamp) -> Copy:
    return Copy(path)


def _copy(path: Path, target: Path) -> None:
    """Whoever writes appends to the WAL; what stood in the database before stays until then."""
    wal, copied_wal = _wal(path), _wal(target)
    for _ in range(_TRIES):
        before = _stamp(path)[0]
        shutil.copyfile(path, target)
        with contextlib.suppress(FileNotFoundError):
            copied_wal.unlink(missing_ok=True)
            shutil.copyfile(wal, copied_wal)
        if _stamp(path)[0] == before:
            return
    raise StoreError(
        f"{path}: does not stand still: it is being written to", "try again in a moment"
    )


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _stamp(path: Path) -> _Stamp:
    """What changes with a database, and what changes with its WAL."""
    found = [path.stat()]
    with contextlib.suppress(FileNotFoundError):
        found.append(_wal(path).stat())
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in found)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}",
            f"what a group holds is in {path.name} and {path.name}-wal: ask for leave to read both",
        ) from error
