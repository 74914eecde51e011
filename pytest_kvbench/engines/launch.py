"""Starts a server once per run, whoever asks first, as a process that outlives its starter.

All processes of a run share a folder. The first to need a server starts it under a file lock; the
others wait and read its address. The server watches the run's controller and ends with it; the
controller stops it at the end of the run. Ctrl-C does not reach it (it has a session of its own),
so that answers under way can still be stored.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_kvbench.engines.keys import without_keys
from pytest_kvbench.engines.places import in_use
from pytest_kvbench.errors import EngineError
from pytest_kvbench.files import replace_json
from pytest_kvbench.wire.addresses import Announced

_POLL_S = 0.05
_GRACE_S = 5.0
_LOG_LINES = 6
_STALE_S = 3600.0
_ERROR = re.compile(r"(?:^|\] )([A-Z]\w*(?:Error|Exception): .*\S)")
"""The last line of a traceback, a logger's prefix before it or not."""


@dataclass(frozen=True)
class Served:
    """A server that is up: its address with the `/v1`, its process, and what it says of itself."""

    base_url: str
    pid: int
    fingerprint: dict[str, str]


def serve(
    folder: Path,
    name: str,
    command: Callable[[Path], Sequence[str]],
    *,
    log: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
) -> Served:
    """The running server `name` of this run, started if no process of the run did.

    Args:
        folder: `run_folder(...)`.
        name: one server per name.
        command: the command line, given the file into which the server writes its address.
        log: where its output goes (appended).
        timeout_s: how long it may take to start.
        env: its environment; ours without keys, where none is given.

    Raises:
        EngineError: it ended, or was not up in time; with the last lines of its log.
    """
    _forget_dead_runs(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    address, pid_file = folder / f"{name}.json", folder / f"{name}.pid"
    with FileLock(folder / f"{name}.lock"):
        if not address.exists():
            pid, printed = _living(pid_file), _Printed(log)
            if pid is None:
                printed = _Printed(log, log.stat().st_size if log.exists() else 0)
                pid = _start(command(address), log, env or without_keys())
                pid_file.write_text(str(pid))
            _await(address, pid, printed, timeout_s)
        return _read(address)


def stop_all(folder: Path) -> None:
    """End every server of a run and remove its folder. Does nothing where none was started."""
    if not folder.is_dir():
        return
    _end(folder.glob("*.pid"))
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
    folder.rmdir()


def stop(folder: Path, name: str) -> None:
    """End one server of a run, so that another may take its memory; `serve` starts it again."""
    with FileLock(folder / f"{name}.lock"):
        _end([folder / f"{name}.pid"])
        for left in ("json", "pid"):
            (folder / f"{name}.{left}").unlink(missing_ok=True)


def once(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON data: made by the first process of a run that asks for `name`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            replace_json(file, make())
        return json.loads(file.read_text(encoding="utf-8"))


def _end(pid_files: Iterable[Path]) -> None:
    import psutil

    processes = []
    for pid_file in pid_files:
        with contextlib.suppress(psutil.NoSuchProcess, ValueError, FileNotFoundError):
            processes.append(psutil.Process(int(pid_file.read_text())))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=_GRACE_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _forget_dead_runs(folder: Path) -> None:
    """Remove folders of runs that were killed: their servers ended with their controllers."""
    prefix = folder.name.rpartition("-")[0]
    for other in {*folder.parent.glob(f"{prefix}-*")} - {folder}:
        with contextlib.suppress(OSError):  # another run may be tidying up the same folder
            old = time.time() - other.stat().st_mtime > _STALE_S
            if old and not any(map(_living, other.glob("*.pid"))) and not in_use(other):
                shutil.rmtree(other)


def _start(command: Sequence[str], log: Path, env: Mapping[str, str]) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 -- our own command line
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        ).pid


def _await(address: Path, pid: int, printed: _Printed, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not address.exists():
        if not _runs(pid):
            raise EngineError(
                f"the server ended while starting: {printed.why()}", f"log: {printed.log}"
            )
        if time.monotonic() > deadline:
            raise EngineError(
                f"the server was not up within {timeout_s:g} s: {printed.why()}",
                f"raise engine.start_timeout_s; log: {printed.log}",
            )
        time.sleep(_POLL_S)


def _living(pid_file: Path) -> int | None:
    """The pid of a server that another process started and did not live to see up."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if _runs(pid) else None


def _runs(pid: int) -> bool:
    import psutil  # late: a run against a server that is there starts none

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read(address: Path) -> Served:
    """What a server of ours wrote of itself when it was up."""
    data: Announced = json.loads(address.read_text(encoding="utf-8"))
    return Served(**data)


@dataclass(frozen=True)
class _Printed:
    """What a server printed: its log, from where it began."""

    log: Path
    since: int = 0

    def why(self) -> str:
        """Its last lines; before them its first error, of which a traceback's end may say nothing.

        vLLM's ends with "See root cause above", a hundred lines below that cause.
        """
        with self.log.open("rb") as file:
            file.seek(self.since)
            lines = file.read().decode(errors="replace").splitlines()
        last = " | ".join(line.strip() for line in lines[-_LOG_LINES:] if line.strip())
        first = next((found[1] for line in lines if (found := _ERROR.search(line))), "")
        said = [first] if first and first not in last else []
        return " | ".join([*said, last]) if last else "it printed nothing"
