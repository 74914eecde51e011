"""Servers: started once per run by whoever comes first, stopped, and explained when they fail."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pytest_kvbench.engines.launch import Served, serve, stop_all
from pytest_kvbench.errors import EngineError

SERVER = """
import json, os, pathlib, sys, time
print("starting")
time.sleep(0.2)
fresh = pathlib.Path(sys.argv[1] + ".new")
fresh.write_text(json.dumps({"base_url": "http://x", "pid": os.getpid(), "fingerprint": {}}))
fresh.rename(sys.argv[1])
time.sleep(60)
"""


def start(folder: Path, code: str = SERVER, timeout_s: float = 20) -> Served:
    return serve(
        folder,
        "s",
        lambda address: [sys.executable, "-u", "-c", code, str(address)],
        log=folder.parent / "engine.log",
        timeout_s=timeout_s,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / f"kvbench-{os.getuid()}-run"


def test_starts_once_and_stops(folder: Path) -> None:
    served: list[Served] = []
    callers = [threading.Thread(target=lambda: served.append(start(folder))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    (pid,) = {s.pid for s in served}
    assert psutil.pid_exists(pid)
    stop_all(folder)
    assert not folder.exists()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_stop_without_start_does_nothing(folder: Path) -> None:
    stop_all(folder)


def test_a_server_that_ends_shows_its_last_lines(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"ended while starting: .*no such model"):
        start(folder, "raise SystemExit('no such model')")


def test_a_server_that_ends_shows_its_first_error_however_much_it_prints_after(
    folder: Path,
) -> None:
    """As vLLM does, whose last lines are "see root cause above"; errors of before are no cause."""
    old = "print('[m.py:1] OldError: of before')"
    for why in (
        old,
        "print('a warning like `OSError: not this`\\n(W 1) [m.py:9] NoFp8Error: why')",
    ):
        program = f"{why}; print('more\\n' * 200); raise RuntimeError('See root cause above')"
        with pytest.raises(EngineError) as caught:
            start(folder, program)
    assert "starting: NoFp8Error: why | " in caught.value.what
    assert caught.value.what.endswith("RuntimeError: See root cause above")


def test_a_server_that_hangs_is_named(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"not up within 0\.5 s: still loading"):
        start(folder, "import time; print('still loading'); time.sleep(60)", timeout_s=0.5)
    stop_all(folder)


def test_folders_of_killed_runs_are_forgotten(folder: Path) -> None:
    dead = folder.with_name(f"kvbench-{os.getuid()}-dead")
    recent = folder.with_name(f"kvbench-{os.getuid()}-recent")
    for other in (dead, recent):
        other.mkdir(parents=True)
        (other / "s.pid").write_text("999999999")
    os.utime(dead, (time.time() - 7200,) * 2)
    start(folder)
    assert (dead.exists(), recent.exists()) == (False, True)
    stop_all(folder)
