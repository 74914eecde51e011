"""Runs killed at any moment: what was received is stored, what is missing is asked, figures agree.

Three moments in the suite; `KVBENCH_KILLS=50` gives fifty.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer
from tests.support.summaries_compared import comparable

MOMENTS = int(os.environ.get("KVBENCH_KILLS", "3"))
EXAMPLES = 20
ARMS = 3
IN_FLIGHT = 4  # engine.concurrency
VICTIMS = ("controller", "worker", "process group")


@dataclass(frozen=True)
class Kill:
    """Who dies, and when: so many seconds after the server got its n-th request."""

    victim: str
    at_post: int
    after_s: float


def kills() -> list[Kill]:
    draw = random.Random(20261122)
    return [
        Kill(VICTIMS[n % 3], draw.randrange(1, EXAMPLES), draw.uniform(0, 0.06))
        for n in range(MOMENTS)
    ]


@dataclass
class Run:
    """A pytest of its own process group in a fresh copy of the project."""

    folder: Path

    def start(self) -> subprocess.Popen[str]:
        arguments = ["-p", "no:benchmark", "-n", "2", "-q"]
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def summary(self) -> dict[str, Any]:
        return comparable(Project(None, self.folder).summary())  # type: ignore[arg-type]

    def stored(self) -> int:
        path = self.folder / "reports/g/kvbench.sqlite"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            (sound,) = db.execute("PRAGMA integrity_check").fetchone()
            assert sound == "ok"
            return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])


@pytest.fixture
def slow(mock: MockServer) -> Iterator[MockServer]:
    mock.latency_s = 0.03
    mock.accuracy = lambda policy, budget: 1.0 if budget >= 0.5 else 0.4
    yield mock
    mock.trouble = lambda number, body: None


def copies(project: Project, base: Path) -> Iterator[Run]:
    number = 0
    while True:
        folder = base / f"copy{number}"
        folder.mkdir()
        for name in ("words.jsonl", "exp.yaml", "test_exp.py"):
            shutil.copy(project.path / name, folder)
        yield Run(folder)
        number += 1


def processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    controller = psutil.Process(run.pid)
    return [controller, *controller.children(recursive=True)]


def strike(run: subprocess.Popen[str], victim: str) -> None:
    """kill -9 of whoever is meant, if it is still there."""
    try:
        if victim == "process group":
            os.killpg(run.pid, signal.SIGKILL)
        elif victim == "worker":
            processes(run)[-1].kill()
        else:
            os.kill(run.pid, signal.SIGKILL)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass  # it was done before: the moment after the end is one too


def arm(mock: MockServer, run: subprocess.Popen[str], kill: Kill, first: int) -> threading.Event:
    """Strike when the server has got so many more requests; the event tells that it happened."""
    struck = threading.Event()

    def act() -> None:
        strike(run, kill.victim)
        struck.set()

    def trouble(number: int, body: object) -> None:
        if number == first + kill.at_post:
            threading.Timer(kill.after_s, act).start()

    mock.trouble = trouble
    return struck


def ended(run: subprocess.Popen[str], family: list[psutil.Process]) -> None:
    """Wait until nobody of a run is left, its orphans included."""
    run.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "a worker outlived its controller"


def family_of(run: subprocess.Popen[str], struck: threading.Event) -> list[psutil.Process]:
    """The processes of a run as last seen before it was struck."""
    family: list[psutil.Process] = []
    while run.poll() is None and not struck.wait(0.02):
        try:
            family = processes(run)
        except psutil.NoSuchProcess:
            break
    return family


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_ends_as_if_it_had_not_been(
    project: Project, slow: MockServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    runs = copies(project, tmp_path_factory.mktemp("kills"))
    undisturbed = next(runs)
    undisturbed.start().communicate(timeout=60)
    expected = undisturbed.summary()
    for kill in kills():
        check(slow, next(runs), kill, expected)


def check(mock: MockServer, run: Run, kill: Kill, expected: dict[str, Any]) -> None:
    mock.asked.clear()
    first = mock.posts
    started = run.start()
    struck = arm(mock, started, kill, first)
    ended(started, family_of(started, struck))
    assert struck.wait(10), kill
    time.sleep(2 * mock.latency_s)  # what the server was still busy with
    given = mock.posts - first
    assert run.stored() >= ARMS * (given - IN_FLIGHT), kill
    run.start().communicate(timeout=60)
    assert mock.posts - first <= EXAMPLES + IN_FLIGHT, kill
    assert max(mock.asked.values()) <= 2, kill
    assert len(mock.asked) == EXAMPLES * ARMS, kill
    assert run.stored() == EXAMPLES * ARMS, kill
    assert run.summary() == expected, kill
