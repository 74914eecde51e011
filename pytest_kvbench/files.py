"""Files shared between processes: replaced whole or not at all, and where a run meets."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_kvbench.errors import StoreError

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


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
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide a report from its readers
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def replace_json(path: Path, data: Any) -> None:
    """`replace_text` of readable JSON: sorted keys, no NaN, one newline at the end."""
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n")


def run_folder(run_id: str) -> Path:
    """Where the processes of one run meet. Made when the first server starts."""
    return Path(tempfile.gettempdir()) / f"kvbench-{os.getuid()}-{run_id}"


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Holds a lock inside, if nobody else does; whether it could. Waits for nobody."""
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
