"""A run over Parsl's workers: the same figures as without them, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer
from tests.support.patience import answered, wait_for
from tests.support.summaries_compared import comparable

OVER = ("--kvbench-executor", "parsl")
MANAGER = ["-m", "parsl.executors.high_throughput.process_worker_pool"]
MARK = "KVB_TEST_RUN"
SMALL = """\
group: small
tasks: [niah/single]
bins: {n: 2, per_bin: 3, range: [128, 256]}
kv: {policies: [snapkv], budgets: [1.0, 0.5, 0.2]}
sampling: {max_tokens: 16}
"""
ANSWERS = 2 * 3 * 4  # three arms, and the one that is known to be bad
TEST = """\
import pytest

@pytest.mark.kvbench("exp.yaml")
def test_quality(cell, control):
    cell.compare(control).check()
"""


def marked(mark: str) -> list[psutil.Process]:
    """The living processes of a run: an orphan has another parent, but the same environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def elsewhere(folder: str) -> tuple[str, ...]:
    """Another folder for groups, and one for shared controls."""
    return ("--kvbench-dir", folder, "-o", f"cache_dir={folder}/cache")


@pytest.mark.slow
def test_workers_answer_as_this_process_does(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock.accuracy = lambda policy, budget: 1.0 if budget >= 0.5 else 0.4
    project.run(*elsewhere("reports")).assert_outcomes(passed=6)
    asked = dict(mock.asked)
    mock.asked.clear()
    monkeypatch.setenv(MARK, "here")
    project.run(*OVER, *elsewhere("over")).assert_outcomes(passed=6)
    found = json.loads((project.path / "over/g/summary.json").read_text())
    assert comparable(found) == comparable(project.summary())
    assert dict(mock.asked) == asked
    assert set(mock.controls) == {1}
    wait_for(lambda: not marked("here"), 10)
    assert not list((project.path / "over/g/parsl").rglob("*.key_secret"))


def test_workers_of_xdist_beside_them_are_refused(project: Project) -> None:
    result = project.run(*OVER, "-n", "1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*executor.name: parsl has workers of its own*", "*-n 0*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def _find(victim: str, mark: str) -> psutil.Process | None:
    """A process of Parsl's, once all of a run's are there."""
    family = marked(mark)
    pools = [p for p in family if line_of(p)[1:3] == MANAGER]
    spawned = [c for p in pools for c in p.children() if "--multiprocessing-fork" in line_of(c)]
    if len(spawned) < 1 + 2:
        return None
    spawned.sort(key=lambda process: process.create_time())
    # The first of them keeps what the others share.
    chosen = {"shared": spawned[0], "worker": spawned[1], "manager": pools[0]}
    if victim in chosen:
        return chosen[victim]
    return next((p for p in family if line_of(p) and "HTEX interchange" in line_of(p)[0]), None)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("victim", ["shared", "worker", "manager", "interchange"])
def test_whoever_of_parsl_is_killed_the_run_goes_on_or_says_why_it_cannot(
    project: Project, mock: MockServer, tmp_path: Path, victim: str, asked: bool
) -> None:
    mock.latency_s = 1
    mark = str(tmp_path)
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:benchmark", *OVER],
            cwd=project.path,
            stdout=out,
            stderr=out,
            env={**os.environ, MARK: mark},
        )
    try:
        wait_for(lambda: mock.posts or not asked)
        wait_for(lambda: _find(victim, mark)).kill()
        status = process.wait(150)
        text = (tmp_path / "out").read_text()
        assert status == (10 if victim == "interchange" else 0), text
        assert victim != "interchange" or "its interchange, through which" in text
        wait_for(lambda: not marked(mark), 20)
    finally:
        for one in marked(mark):
            one.kill()


# -- on the real model ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A pytest on the real model, in a process group of its own as under a shell."""

    folder: Path
    arguments: tuple[str, ...] = OVER
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "exp.yaml").write_text(SMALL)
        (self.folder / "test_small.py").write_text(TEST)
        with (self.folder / "out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-p", "no:benchmark", *self.arguments],
                cwd=self.folder,
                stdout=out,
                stderr=out,
                env={**os.environ, MARK: str(self.folder)},
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def finish(self) -> None:
        """Wait for a good end, after which nobody is left."""
        assert self.started[-1].wait(240) == 0, self.text
        assert self.answered() == ANSWERS
        wait_for(lambda: not self.family(), 15)

    @property
    def text(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def summary(self) -> dict[str, Any]:
        text = (self.folder / "reports/small/summary.json").read_text()
        data: dict[str, Any] = json.loads(text)
        return data

    def answered(self) -> int:
        return answered(self.folder / "reports/small/kvbench.sqlite")

    def family(self) -> list[psutil.Process]:
        return marked(str(self.folder))

    def managers(self) -> list[psutil.Process]:
        return [process for process in self.family() if line_of(process)[1:3] == MANAGER]

    def workers(self) -> list[psutil.Process]:
        """The processes that hold an engine."""
        (manager,) = self.managers()
        spawned = [c for c in manager.children() if "--multiprocessing-fork" in line_of(c)]
        # The first of them keeps what the others share.
        return sorted(spawned, key=lambda process: process.create_time())[1:]


def line_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of the same experiment without Parsl."""
    run = Run(tmp_path_factory.mktemp("local"), ())
    run.start()
    run.finish()
    return comparable(run.summary)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "over")
    yield run
    for process in run.family():
        process.kill()


@pytest.mark.model
def test_the_same_figures_on_the_real_model(run: Run, expected: dict[str, Any]) -> None:
    run.start()
    wait_for(lambda: run.answered() >= 1)
    assert len(run.workers()) == 2
    servers = [p for p in run.family() if "pytest_kvbench.server" in line_of(p)]
    assert len(servers) == 1
    run.finish()
    assert comparable(run.summary) == expected
    assert sum(c["produced"] for c in run.summary["provenance"]["controls"]) == 6


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_nobody_and_the_rest_is_asked_later(
    run: Run, expected: dict[str, Any]
) -> None:
    process = run.start()
    wait_for(lambda: run.answered() >= 1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == pytest.ExitCode.INTERRUPTED, run.text
    wait_for(lambda: not run.family(), 15)
    assert 1 <= run.answered() < ANSWERS
    assert "Error" not in run.text
    run.start()
    run.finish()
    assert comparable(run.summary) == expected


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("victim", ["worker", "manager"])
def test_a_killed_worker_or_manager_costs_nothing(
    run: Run, expected: dict[str, Any], victim: str
) -> None:
    run.start()
    wait_for(lambda: run.answered() >= 1)
    (run.workers() if victim == "worker" else run.managers())[0].kill()
    assert run.answered() < ANSWERS
    run.finish()
    assert comparable(run.summary) == expected


@pytest.mark.slow
@pytest.mark.model
def test_a_killed_controller_leaves_nobody(run: Run) -> None:
    process = run.start()
    wait_for(lambda: run.answered() >= 1)
    process.kill()
    process.wait(60)
    wait_for(lambda: not run.family(), 20)
