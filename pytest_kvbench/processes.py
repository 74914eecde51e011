"""Processes that start each other: who lives, who ends with whom, and what is handed on."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# psutil is loaded late: a run that starts no process looks at none.

_EVERY_S = 0.2
_GRACE_S = 3.0  # less than `engines.launch` waits before it kills who ends others
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)


def end_with(pid: int) -> None:
    """End this process, at once, when the process `pid`, as it is now, is gone."""
    import psutil

    try:
        watched = psutil.Process(pid)
    except psutil.NoSuchProcess:
        os._exit(1)
    threading.Thread(target=_outlive, args=(watched,), daemon=True).start()


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """A block that makes much and drops nothing, as imports do: no search for cycles in it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def run_ours(module: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """A module of this package as a program of its own, without secrets, until it ends."""
    return subprocess.run(  # noqa: S603 -- our own module, by this very interpreter
        [sys.executable, "-m", f"pytest_kvbench.{module}", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=without_secrets(),
    )


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; `is_running` tells a new process of the same pid from it."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_end(*processes: psutil.Process, timeout_s: float | None = None) -> bool:
    """Block until one of some processes has ended; False where none has within `timeout_s`.

    It is noticed at once where the system tells of an end (Linux), else within 0.2 s.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with contextlib.ExitStack() as opened:
        wait_at_most = _waiter(processes, opened)
        while all(map(is_alive, processes)):
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            wait_at_most(left_s)
    return True


def _waiter(
    processes: Sequence[psutil.Process], opened: contextlib.ExitStack
) -> Callable[[float | None], object]:
    """A function that waits until one may have ended, at most so many seconds."""
    ends = select.poll()
    try:
        for process in processes:
            end = os.pidfd_open(process.pid)
            opened.callback(os.close, end)
            ends.register(end, select.POLLIN)
    except (AttributeError, OSError):  # another system; or it has ended
        return lambda left_s: time.sleep(_EVERY_S if left_s is None else min(left_s, _EVERY_S))
    return lambda left_s: ends.poll(None if left_s is None else left_s * 1000)


def end_tree(pid: int) -> None:
    """End a process and all that it started: first asked, then killed."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        tree = [*root.children(recursive=True), root]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(tree, timeout=_GRACE_S)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def without_secrets() -> dict[str, str]:
    """The environment for a process that asks no server: without all that looks like a key."""
    return {name: value for name, value in os.environ.items() if not _SECRET_NAME.search(name)}


def _outlive(watched: psutil.Process) -> None:
    await_end(watched)
    os._exit(0)
