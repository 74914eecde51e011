"""Workers that die before their first test are replaced; those whose controller dies end too."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer

ITEMS = 2 * 3  # bins x (control, 0.5, 0.2)
IN_FLIGHT = 4  # engine.concurrency
FOREIGN = """
import pytest

@pytest.mark.parametrize("x", range(8))
def test_foreign(x):
    assert True
"""
# gw0 dies when it gets to MOMENT: configured, ready to collect, or collected. Then gw2, in its
# place, is ready before gw1 has collected, and collects after it.
CONFTEST = """
import os, pathlib, pytest, time

here = pathlib.Path(__file__).parent

def worker(config):
    return getattr(config, "workerinput", {}).get("workerid")

def die(moment, config):
    if moment == MOMENT and worker(config) == "gw0":
        os.kill(os.getpid(), 9)

def wait_for(name):
    deadline = time.monotonic() + LONGEST_S
    while not (here / name).exists() and time.monotonic() < deadline:
        time.sleep(0.02)

def pytest_configure(config):
    die("configured", config)

def pytest_collection(session):
    die("ready", session.config)
    if MOMENT == "collected" and worker(session.config) in ("gw1", "gw2"):
        (here / f"ready-{worker(session.config)}").touch()
        wait_for({"gw1": "ready-gw2", "gw2": "collected-gw1"}[worker(session.config)])

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    (here / f"collected-{worker(session.config)}").touch()
    die("collected", session.config)
"""


def dying(project: Project, moment: str, longest_s: float = 20) -> None:
    head = f"MOMENT, LONGEST_S = {moment!r}, {longest_s}\n"
    (project.path / "conftest.py").write_text(head + CONFTEST, encoding="utf-8")


@pytest.mark.parametrize(
    ("moment", "ours"),
    [
        ("configured", True),
        pytest.param("collected", True, marks=pytest.mark.slow),
        ("configured", False),
    ],
)
def test_a_worker_that_dies_before_its_first_test_is_replaced(
    project: Project, moment: str, ours: bool
) -> None:
    if not ours:
        (project.path / "test_exp.py").write_text(FOREIGN, encoding="utf-8")
    dying(project, moment)
    result = project.run("-n", "2")
    result.assert_outcomes(passed=ITEMS if ours else 8)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*replacing crashed worker*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_where_nobody_replaces_it_the_status_says_so(project: Project, workers: str) -> None:
    """The only one had its first test; of two, the other never got what there was to do."""
    dying(project, "collected", longest_s=1)
    result = project.run("-n", workers, "--max-worker-restart", "0")
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*crashed and worker restarting disabled*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize("ours", [True, False])
def test_where_all_die_before_they_have_collected_the_status_says_so(
    project: Project, ours: bool
) -> None:
    if not ours:
        (project.path / "test_exp.py").write_text(FOREIGN, encoding="utf-8")
    dying(project, "ready")
    result = project.run("-n", "1", "--max-worker-restart", "0")
    assert result.ret == (10 if ours else pytest.ExitCode.NO_TESTS_COLLECTED)
    said = "kvbench: exit status 10: all workers crashed while they collected"
    assert (result.outlines[-1] == said) is ours


@pytest.mark.slow
def test_workers_ask_no_more_once_their_controller_is_gone(
    project: Project, mock: MockServer
) -> None:
    mock.latency_s = 0.3
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:benchmark", "-n", "2"],
        cwd=project.path,
        stdout=subprocess.DEVNULL,
    )
    family: list[psutil.Process] = []

    def trouble(number: int, body: object) -> None:
        if number == IN_FLIGHT:
            family.extend(psutil.Process(run.pid).children(recursive=True))
            run.kill()

    mock.trouble = trouble
    assert run.wait(60) == -signal.SIGKILL
    assert len(family) >= 2
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert mock.posts <= 2 * IN_FLIGHT
