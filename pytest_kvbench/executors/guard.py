"""`python -m pytest_kvbench.executors.guard --log FILE [OPTIONS] -- MODULE ...`

Runs a module in this process, and beside it a small process that stays until that one has ended,
however it ended: then it kills all that was started below and is still there. A killed manager
leaves helpers behind that nobody else would find; with `--watch-pid PID`, both end when the
controller is gone; with `--replaces-s S`, when a process that the module started has been gone for
so long and none has come in its place. (Parsl's manager replaces a lost worker in one heartbeat,
unless it has lost the process that its workers share: then it waits for ever, and answers
heartbeats meanwhile.)

What was started below is known by a mark in its environment: a child of a killed process has
another parent, and a server has a session of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pytest_kvbench.processes import await_end, is_alive

_MARK = "KVB_GUARDED_BY"
_EVERY_S = 0.5
_FORKED = "--multiprocessing-fork"
_ROUNDS = 5
_BETWEEN_ROUNDS_S = 0.05


def main(arguments: list[str] | None = None) -> None:
    """Run the module that is asked for in this process, guarded. Does not return."""
    options = _parser().parse_args(arguments)
    mark = uuid.uuid4().hex
    watched = _watched(options.watch_pid)
    _redirect(options.log)
    # Ctrl-C is for the controller, which ends the run in order. Ignored, it stays so after exec.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[_MARK] = mark
    os.environ["SPT_NOENV"] = "1"  # Parsl renames processes, else over their environment
    guarded = psutil.Process()
    if os.fork() == 0:
        _stand_by(_Guarded(guarded, options.replaces_s), watched, mark)
    os.execv(sys.executable, [sys.executable, "-m", *options.command])  # noqa: S606 -- our own


def command_line(
    log: Path, module: str, *, watch_pid: int | None = None, replaces_s: float | None = None
) -> list[str]:
    """The command line of a guarded module; its arguments may follow."""
    options = {"--log": log, "--watch-pid": watch_pid, "--replaces-s": replaces_s}
    given = [word for name, at in options.items() if at is not None for word in (name, str(at))]
    return [sys.executable, "-m", "pytest_kvbench.executors.guard", *given, "--", module]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_kvbench.executors.guard")
    parser.add_argument("--log", type=Path, required=True, help="takes what would be printed")
    parser.add_argument("--watch-pid", type=int, help="end when this process does")
    parser.add_argument("--replaces-s", type=float, help="it may lack a process for so long")
    parser.add_argument("command", nargs="+", help="a module and its arguments")
    return parser


def _watched(pid: int | None) -> psutil.Process | None:
    if pid is None:
        return None
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        sys.exit(1)


def _redirect(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)


@dataclass
class _Guarded:
    """Watches the processes of a module: whether it still does what it is for."""

    process: psutil.Process
    replaces_s: float | None
    _most: int = 0
    _complete_at: float = 0.0

    def has_lost_one(self) -> bool:
        """Whether one of the processes that it started is gone for good."""
        if self.replaces_s is None:
            return False
        count, now = self._started(), time.monotonic()
        if count >= self._most:
            self._most, self._complete_at = count, now
        return now - self._complete_at > self.replaces_s

    def _started(self) -> int:
        count = 0
        with contextlib.suppress(psutil.Error):
            for child in self.process.children():
                with contextlib.suppress(psutil.Error):
                    count += is_alive(child) and _FORKED in child.cmdline()
        return count


def _stand_by(guarded: _Guarded, watched: psutil.Process | None, mark: str) -> None:
    """Wait for an end, then make it everybody's. Ends this process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it comes for the whole group, and is no end yet
    try:
        both = [guarded.process, *([watched] if watched else [])]
        while not await_end(*both, timeout_s=_EVERY_S) and not guarded.has_lost_one():
            pass
        for _ in range(_ROUNDS):  # who was just being started is found in the next round
            if not _kill(mark):
                break
            time.sleep(_BETWEEN_ROUNDS_S)
    finally:
        os._exit(0)


def _kill(mark: str) -> bool:
    """Kill all that carry the mark; whether there was one."""
    found = list(_marked(mark))
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return bool(found)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark and is_alive(process):
                yield process


if __name__ == "__main__":
    main()
