"""A session's end reads and writes `summary.json` once, and judges once, baselines included."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pytest_kvbench.analyse
from pytest_kvbench.cli.stages import main
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.judge import Question
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.store import Store
from tests.conftest import Project
from tests.support import remembered
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

_COUNTS: list[Counter[str]] = []
"""Of the test that runs: an audit hook stays for the life of its process."""


def _count(event: str, args: tuple[Any, ...]) -> None:
    if _COUNTS and event in ("open", "os.rename"):
        path = str(args[0] if event == "open" else args[1])
        if Path(path).name == "summary.json":
            _COUNTS[0]["read" if event == "open" else "written"] += 1


sys.addaudithook(_count)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often `summary.json` was opened to be read, and replaced; how often was judged."""
    judged, counted = pytest_kvbench.analyse.analyse, Counter[str]()

    def judge(*args: Any) -> Any:
        counted["judged"] += 1
        return judged(*args)

    monkeypatch.setattr(pytest_kvbench.analyse, "analyse", judge)
    monkeypatch.setattr(Question, "answer", remembered.ANEW)
    _COUNTS.append(counted)
    yield counted
    _COUNTS.clear()


WHOLE = ("--kvbench-report", "--kvbench-save", "main")


def test_a_session_reads_and_writes_the_summary_once(
    project: Project, mock: MockServer, counts: Counter[str]
) -> None:
    mock.fingerprint = {"weights": "9f" * 32}  # else a comparison asks it again
    project.run(*WHOLE)
    assert counts == {"read": 1, "written": 1, "judged": 1}
    counts.clear()
    mock.accuracy = lambda policy, budget: 1.0 if budget == 1 else 0.0
    project.run(*WHOLE, "--kvbench-compare", "main", "--kvbench-fresh")
    assert counts == {"read": 1, "written": 1, "judged": 1}
    counts.clear()
    again = project.run(*WHOLE, "--kvbench-compare", "main")
    again.stdout.fnmatch_lines(
        ["nothing was left to do: *", "*6 REGRESSIONS", "baseline main is kept*"]
    )
    assert counts == {"read": 1}


def test_so_does_the_command_line(
    project: Project, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    done = CliRunner().invoke(main, ["all", "exp.yaml"])
    assert done.exit_code == 0, done.output
    assert counts == {"read": 1, "written": 1, "judged": 1}


def test_a_report_elsewhere_has_its_summary_beside_it(project: Project) -> None:
    project.run("--kvbench-report=elsewhere")
    copy = project.path / "elsewhere" / "g" / "summary.json"
    assert copy.read_bytes() == (project.path / "reports" / "g" / "summary.json").read_bytes()
    assert copy.with_name("report.md").is_file()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each request of the plan was made."""
    requests, counted = plan.requests, Counter[str]()

    def make(*args: Any) -> Iterator[tuple[Cell, Request]]:
        for cell, request in requests(*args):
            counted[request.key] += 1
            yield cell, request

    monkeypatch.setattr(plan, "requests", make)
    return counted


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_process_makes_its_plan_once(
    project: Project, mock: MockServer, made: Counter[str], mode: str
) -> None:
    with BatchServer() as server:
        url = server.base_url if mode == "batch" else mock.base_url
        options = ("--kvbench-base-url", url, "--kvbench-set", f"engine.mode={mode}")
        for _ in range(2):
            made.clear()
            project.run("-n", "0", "--kvbench-report", *options)
            assert set(made.values()) == {1}
    assert len(made) == 2 * 10 * 3


def test_so_does_a_command(
    project: Project, made: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    assert CliRunner().invoke(main, ["all", "exp.yaml"]).exit_code == 0
    assert set(made.values()) == {1}


def test_so_does_a_command_in_batches_but_for_what_its_control_decides(
    project: Project, made: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan may be too large to keep: but a group's control is exchanged and looked at as one."""
    monkeypatch.chdir(project.path)
    with BatchServer() as server:
        where = ("--set", f"engine.base_url={server.base_url}", "--set", "engine.mode=batch")
        assert CliRunner().invoke(main, ["run", "exp.yaml", *where]).exit_code == 0
    assert Counter(made.values()) == {1: 2 * 10 * 2, 2: 10 * 2}


@pytest.mark.parametrize(
    "more",
    [
        "",
        "sampling: {strategy: sequential}\n",
        "sampling: {strategy: sequential, temperature: 0.7, self_consistency: 3}\n",
    ],
    ids=["plain", "sequential", "sequential votes"],
)
def test_an_analysis_reads_the_outcomes_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    monkeypatch.chdir(project.path)
    experiment = project.path / "exp.yaml"
    text = experiment.read_text(encoding="utf-8") + more
    rounds = "per_bin: {min: 5, max: 10}" if more else "per_bin: 10"
    experiment.write_text(text.replace("per_bin: 10", rounds), encoding="utf-8")
    for command in ("run", "score"):
        done = CliRunner().invoke(main, [command, "exp.yaml" if command == "run" else "g"])
        assert done.exit_code == 0, done.output
    read, outcomes = [], Store.outcomes
    monkeypatch.setattr(Store, "outcomes", lambda *a: read.append(a) or outcomes(*a))
    done = CliRunner().invoke(main, ["analyse", "g"])
    assert done.exit_code == 0, done.output
    assert len(read) == 1


def test_a_control_is_read_once_for_all_its_treatments(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, outcomes = [], Store.outcomes
    monkeypatch.setattr(Store, "outcomes", lambda *a: read.append(a) or outcomes(*a))
    text, reads = (project.path / "exp.yaml").read_text(encoding="utf-8"), []
    for group, budgets in (("g", "[1.0, 0.5, 0.2]"), ("h", "[1.0, 0.5, 0.4, 0.3, 0.2]")):
        wanted = text.replace("group: g", f"group: {group}").replace("[1.0, 0.5, 0.2]", budgets)
        (project.path / "exp.yaml").write_text(wanted, encoding="utf-8")
        project.run("-n", "0")
        read.clear()
        project.run("-n", "0")
        reads.append(len(read))
    assert reads[1] == reads[0]  # whatever the number of arms
