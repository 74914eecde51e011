"""A server behind an address may be replaced: a gate and a comparison ask the one that is there."""

from __future__ import annotations

import contextlib
import json
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


@pytest.mark.slow
def test_a_replaced_server_is_gated_through_parsl(project: Project, mock: MockServer) -> None:
    project.run("-n", "0", "--kvbench-save", "main")
    mock.accuracy = worse
    mock.asked.clear()
    more = ("-n", "0", "--kvbench-compare", "main", GATE)
    file = project.path / "exp.yaml"
    file.write_text(file.read_text() + "executor: {name: parsl, workers: 1}\n")
    assert project.run(*more).ret == 1
    assert set(mock.asked.values()) == {1}
    assert len(mock.asked) == 60


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
    with BatchServer() as server, MockServer() as mock:
        server.reply = mock.completion
        batched(project, server)
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
    result.stdout.fnmatch_lines(["g, mock: *, with answers of a run begun * before"])
    assert sum(mock.asked.values()) == 5


def test_a_run_that_was_interrupted_long_ago_does_not(project: Project, mock: MockServer) -> None:
    project.run("-n", "0", GATE)
    with database(project) as db:
        db.execute(
            "UPDATE experiments SET finished_at=NULL, started_at='2026-11-01T00:00:00+00:00'"
        )
        db.execute("UPDATE answers SET created_at='2026-11-01T01:00:00.000Z'")
    mock.asked.clear()
    result = project.run("-n", "0", GATE)
    result.stdout.fnmatch_lines(["*came to no end, and no answer for * hours, more than 24*"])
    assert sum(mock.asked.values()) == 60


def batched(project: Project, server: BatchServer) -> None:
    """A gate that asks in batches."""
    text = (project.path / "exp.yaml").read_text()
    url = text.split('base_url: "')[1].split('"')[0]
    text = text.replace(url, server.base_url).replace("retries: 1", "mode: batch")
    (project.path / "exp.yaml").write_text(text + "gate: {mode: gate, margin: 0.5}\n")


@pytest.mark.parametrize(
    ("between", "handed_over"),
    [
        (["wait", "g"], 1),
        (["batch", "fetch", "g"], 1),
        (["wait", "g", "--then", "analyse"], 2),  # it has its verdict: the next is another one
    ],
)
def test_a_run_of_batches_goes_on_until_its_verdict(
    project: Project, monkeypatch: pytest.MonkeyPatch, between: list[str], handed_over: int
) -> None:
    monkeypatch.chdir(project.path)
    with BatchServer() as server, MockServer() as mock:
        server.reply = mock.completion
        batched(project, server)
        for arguments in (["run", "exp.yaml"], between, ["run", "exp.yaml"]):
            CliRunner().invoke(main, arguments)
        assert len(server.batches) == handed_over


def test_controls_of_another_group_are_not_taken_over(project: Project, mock: MockServer) -> None:
    project.run("-n", "0")
    mock.asked.clear()
    project.run("-n", "0", GATE, "--kvbench-set", "group=other")
    assert len(mock.asked) == 60


def test_another_route_behind_an_address_is_another_server(
    project: Project, mock: MockServer
) -> None:
    """A gateway may choose the model by a header."""
    project.run("-n", "0")
    file = project.path / "exp.yaml"
    file.write_text(file.read_text().replace("retries: 1", "retries: 1, headers: {X-Route: big}"))
    mock.asked.clear()
    assert project.run("-n", "0").ret == 0
    assert len(mock.asked) == 60
    assert mock.headers["X-Route"] == "big"
    assert '"x-route":"big"' in json.dumps(project.summary()["provenance"]).replace("\\", "")
