"""Files shared between processes: replaced whole or not at all, and where a run meets."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from pytest_kvbench.errors import StoreError

CONTROLS = "shared_controls"
"""The folder of shared controls, in pytest's cache or in a group."""

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_LOOK = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
UNCONFIRMED = ".unconfirmed"
"""What marks a folder that came out of an archive, see `store.origin`: nothing in it is run."""

BASELINES = ".baselines"
"""Below the reports, the folders of baselines by name."""

UNFINISHED = ".kvbench-"
"""How the name of whatever is still being made begins; nothing finished is called so."""


def baseline_folder(reports: Path, name: str) -> Path:
    """Where a baseline is: by its name below the reports; a name with a slash is a path."""
    return Path(name).expanduser() if "/" in name else reports / BASELINES / name


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever keeps `path` from being written, as an error meant for people.

    Raises:
        StoreError: the disk is full, or the folder is read-only or gone.
    """
    try:
        yield
    except OSError as error:
        mend = "free the disk or make the folder writable"
        if error.errno in OUT_OF_FILES:
            mend = "raise the limit (ulimit -n) or lower engine.concurrency"
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}",
            f"{mend}, then run again: what was answered stays",
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never half of one.

    Raises:
        StoreError: it cannot be written; the old file stays as it was.
    """
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """`replace_text` of bytes."""
    replace_in_pieces(path, [content])


def replace_in_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """`replace_text` of bytes that need not be in memory together."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_file(path.parent) as temporary:
            with temporary.open("wb") as file:
                file.writelines(pieces)
            temporary.replace(path)


def replace_json(path: Path, data: Any) -> None:
    """`replace_text` of readable JSON: sorted keys, no NaN, one newline at the end."""
    replace_text(path, readable_json(data))


def readable_json(data: Any) -> str:
    """What `replace_json` writes."""
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text + "\n"


# -- what is being made --------------------------------------------------------------------------


@contextlib.contextmanager
def unfinished_file(folder: Path) -> Iterator[Path]:
    """A hidden empty file in `folder`, to be renamed once it is whole; gone at the end otherwise.

    Its lock is the operating system's: what a killed process left has none, and `sweep` takes it.
    """

    def make() -> Path:
        handle, name = tempfile.mkstemp(dir=folder, prefix=UNFINISHED)
        os.close(handle)
        return Path(name)

    with _ours(make) as path:
        path.chmod(0o644)  # mkstemp's 0600 would hide a report from its readers
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """As `unfinished_file`, a folder: what is in it may be renamed out of it."""
    with _ours(lambda: Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def make_folder(place: Path, fill: Callable[[Path], None]) -> bool:
    """Make a folder that `fill` fills, whole or not at all; False where it is there already.

    Raises:
        StoreError: it cannot be written.
    """
    with writing(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    sweep(place.parent)
    with locked(place.parent / ".lock"), writing(place):
        if place.exists():
            return False
        with unfinished_folder(place.parent) as room:
            fill(room)
            room.chmod(0o755)
            room.rename(place)
    return True


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder where temporary files go; those of dead processes are taken away."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    with writing(place), contextlib.ExitStack() as stack:
        room = stack.enter_context(unfinished_folder(place))
        keep = stack.pop_all()
    with keep:
        yield room


def sweep(folder: Path, *, below: bool = False) -> None:
    """Take away what killed processes left half made in a folder; never fails.

    Args:
        folder: where it is looked for; may be missing.
        below: in all folders inside it too.
    """
    found = folder.rglob if below else folder.glob
    with contextlib.suppress(OSError):
        for path in list(found(f"{UNFINISHED}*")):
            with contextlib.suppress(OSError):
                _take_away(path)


@contextlib.contextmanager
def _ours(make: Callable[[], Path]) -> Iterator[Path]:
    """What `make` makes, held for as long as the block lasts."""
    path, handle = _held(make)
    try:
        yield path
    finally:
        os.close(handle)


def _held(make: Callable[[], Path]) -> tuple[Path, int]:
    """What `make` makes, and its lock; made again where a sweep came between the two."""
    while True:
        path = make()
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            handle = os.open(path, _LOOK)
            try:
                _lock(handle)
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return path, handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _lock(handle: int) -> None:
    """Lock a descriptor, where its file system has locks; where it has none, nothing is swept.

    Raises:
        BlockingIOError: another holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def _take_away(path: Path) -> None:
    handle = os.open(path, _LOOK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(handle)


def is_unconfirmed(folder: Path) -> bool:
    """Whether a group came from elsewhere and what it would do is not confirmed yet."""
    return os.path.lexists(folder / UNCONFIRMED)


def may_write(path: Path) -> bool:
    """Whether this user may write a file, or into a folder, that is there."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def cache_root() -> Path:
    """Where what was made once is kept: `KVBENCH_CACHE`, else the user's cache folder."""
    override = os.environ.get("KVBENCH_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("pytest-kvbench")


def run_folder(run_id: str) -> Path:
    """Where the processes of one run meet. Made when the first server starts."""
    return Path(tempfile.gettempdir()) / f"kvbench-{os.getuid()}-{run_id}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock inside the block; waits until it is free.

    Raises:
        StoreError: its file cannot be written.
    """
    lock = FileLock(path)
    with writing(path.parent):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Holds a lock inside the block if it is free, and gives whether it is; never waits."""
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
