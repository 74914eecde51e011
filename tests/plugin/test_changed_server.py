"""A server behind an address may be replaced: a gate and a comparison ask the one that is there."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

GATE = "--kvbench-set=gate.mode=gate"
KNOWN = {"weights": "9f" * 32}


def worse(policy: str, budget: float) -> float:
    return 1.0 if budget == 1 else 0.0


@contextlib.contextmanager
def database(project: Project) -> Iterator[sqlite3.Connection]:
    path = project.path / "reports/g/kvbench.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        yield db


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_replaced_server_is_compared_by_its_own_answers(
    project: Project, mock: MockServer, n: str
) -> None:
    project.run("-n", "0", "--kvbench-save", "main")
    mock.accuracy = worse
    mock.asked.clear()
    result = project.run("-n", n, "--kvbench-compare", "main")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*WORSE*", "*REGRESSIONS*"])
    assert len(mock.asked) == 60
    assert set(mock.asked.values()) == {1}, "the workers of one run share its answers"


def test_a_replaced_server_is_gated_by_its_own_answers(project: Project, mock: MockServer) -> None:
    more = ("-n", "0", GATE, "--kvbench-set", "gate.margin=0.5")
    assert project.run(*more).ret == 0
    mock.accuracy = worse
    assert project.run(*more).ret == 1


def test_a_replaced_server_of_batches_is_gated_too(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    text = (project.path / "exp.yaml").read_text()
    with BatchServer() as server, MockServer() as mock:
        server.reply = mock.completion
        url = text.split('base_url: "')[1].split('"')[0]
        batched = text.replace(url, server.base_url).replace("retries: 1", "mode: batch")
        (project.path / "exp.yaml").write_text(batched + "gate: {mode: gate, margin: 0.5}\n")
        for accuracy, status in ((lambda policy, budget: 1.0, 0), (worse, 1)):
            mock.accuracy = accuracy
            for _ in range(2):  # hand over; pick up
                CliRunner().invoke(main, ["run", "exp.yaml"])
            CliRunner().invoke(main, ["score", "g"])
            assert CliRunner().invoke(main, ["analyse", "g"]).exit_code == status


def test_a_server_that_names_its_weights_by_digest_is_not_asked_again(
    project: Project, mock: MockServer
) -> None:
    mock.fingerprint = KNOWN
    project.run("-n", "0", "--kvbench-save", "main")
    asked = mock.posts
    result = project.run("-n", "0", "--kvbench-compare", "main")
    assert (result.ret, mock.posts) == (0, asked)


def test_measuring_asks_only_what_is_missing(project: Project, mock: MockServer) -> None:
    project.run("-n", "0")
    asked = mock.posts
    project.run("-n", "0")
    assert mock.posts == asked


def test_an_interrupted_run_goes_on(project: Project, mock: MockServer) -> None:
    project.run("-n", "0")
    project.run("-n", "0", GATE)
    with database(project) as db:  # as a kill leaves it
        db.execute("UPDATE experiments SET finished_at = NULL")
        lost = "SELECT key FROM requests WHERE replicate = 1 LIMIT 5"
        for table in ("scores", "telemetry", "answers"):
            db.execute(f"DELETE FROM {table} WHERE key IN ({lost})")
    mock.asked.clear()
    result = project.run("-n", "0", GATE)
    result.stdout.fnmatch_lines(["*g: goes on with the run that began at*"])
    assert sum(mock.asked.values()) == 5


def test_controls_of_another_group_are_not_taken_over(project: Project, mock: MockServer) -> None:
    project.run("-n", "0")
    mock.asked.clear()
    project.run("-n", "0", GATE, "--kvbench-set", "group=other")
    assert len(mock.asked) == 60
