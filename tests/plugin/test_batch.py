"""`engine.mode: batch`: one run hands over, a later one picks up and completes the items."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

ITEMS = 2 * 3  # bins x (control, 0.5, 0.2)
REQUESTS = 2 * 10 * 3
with_and_without_xdist = pytest.mark.parametrize("n", ["0", "1"])


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        yield server


@pytest.fixture
def batched(project: Project, server: BatchServer) -> Project:
    """The project's experiment, in batches."""
    file = project.path / "exp.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("engine:")]
    engine = f'{{model: mock, mode: batch, base_url: "{server.base_url}", retries: 0}}'
    file.write_text("\n".join([*lines, f"engine: {engine}\n"]))
    return project


def answers(project: Project) -> int:
    with sqlite3.connect(project.path / "reports/g/kvbench.sqlite") as db:
        return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])


def test_who_asks_live_beside_an_open_batch_is_warned(
    batched: Project, server: BatchServer, mock: MockServer
) -> None:
    batched.run("-n", "0")
    file = batched.path / "exp.yaml"
    text = file.read_text().replace("mode: batch", "name: local")
    file.write_text(text.replace(server.base_url, mock.base_url))
    result = batched.run("-n", "0")
    result.stdout.fnmatch_lines(["*group g: waiting for batch batch_0*is asked twice*"])
    result.assert_outcomes(passed=ITEMS, warnings=2)
    assert "is asked twice" in CliRunner().invoke(main, ["run", "exp.yaml"]).stderr


@with_and_without_xdist
def test_items_wait_for_their_batch_and_are_completed_by_a_later_run(
    batched: Project, server: BatchServer, n: str
) -> None:
    result = batched.run("-n", n, "-rs")
    result.assert_outcomes(skipped=ITEMS)
    assert result.ret == 0
    waits = "waiting for batch batch_0 (0 of 60 done)"
    result.stdout.fnmatch_lines(["*kvbench g*", waits, f"SKIPPED*{waits}"])
    assert list(server.batches) == ["batch_0"]
    result = batched.run("-n", n)
    result.assert_outcomes(passed=ITEMS)
    assert result.ret == 0
    assert "waiting" not in result.stdout.str()
    assert set(server.asked.values()) == {1}
    assert (len(server.asked), answers(batched)) == (REQUESTS, REQUESTS)
    summary = batched.summary()
    assert not summary["partial"]
    assert {cell["proof"] for cell in summary["cells"] if cell["budget"] < 1} == {"proven"}


def test_a_run_meanwhile_and_a_run_afterwards_hand_over_nothing(
    batched: Project, server: BatchServer
) -> None:
    server.lag = 1
    for _ in range(2):
        batched.run().assert_outcomes(skipped=ITEMS)
    assert server.actions == ["upload", "create", "poll"]
    batched.run().assert_outcomes(passed=ITEMS)
    batched.run().assert_outcomes(passed=ITEMS)
    assert server.actions == ["upload", "create", "poll", "poll", "download"]


def test_only_what_is_selected_is_handed_over(batched: Project, server: BatchServer) -> None:
    batched.run("-k", "bin0").assert_outcomes(skipped=ITEMS // 2)
    assert len(server.asked) == REQUESTS // 2
    result = batched.run()
    result.assert_outcomes(passed=ITEMS // 2, skipped=ITEMS // 2)
    result.stdout.fnmatch_lines(["*waiting for batch batch_1 (0 of 30 done)*"])
    assert batched.summary()["partial"]
    batched.run().assert_outcomes(passed=ITEMS)
    assert set(server.asked.values()) == {1}


def test_lost_requests_are_counted_and_asked_by_the_run_after(
    batched: Project, server: BatchServer
) -> None:
    server.error = lambda line: {"code": "server_error", "message": "oh"}
    batched.run().assert_outcomes(skipped=ITEMS)
    result = batched.run()
    result.assert_outcomes(errors=ITEMS)
    assert result.ret == 10
    batched.run().assert_outcomes(skipped=ITEMS)
    assert set(server.asked.values()) == {2}


def test_a_server_that_is_down_and_a_ledger_that_was_altered(
    batched: Project, server: BatchServer
) -> None:
    batched.run()
    server.lose = ["poll"] * ITEMS
    result = batched.run()
    result.assert_outcomes(errors=ITEMS)
    assert result.ret == 10
    assert server.actions.count("poll") == 1
    result.stdout.fnmatch_lines(["*kvbench: batch: GET *: HTTP 504: lost*"])
    assert "Traceback" not in result.stdout.str()
    ledger = batched.path / "reports/g/batches.json"
    data = json.loads(ledger.read_text())
    data["batches"][0]["requests"] += 1
    ledger.write_text(json.dumps(data))
    result = batched.run()
    result.assert_outcomes(errors=ITEMS)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*batches.json: was altered: its checksum*"])


def test_a_stage_comes_after_the_batches_of_the_one_before(
    batched: Project, server: BatchServer
) -> None:
    file = batched.path / "exp.yaml"
    file.write_text(file.read_text() + "stages: {first: {}, second: {}}\n")
    batched.run().assert_outcomes(skipped=2 * ITEMS)
    assert len(server.batches) == 1
    batched.run().assert_outcomes(passed=ITEMS, skipped=ITEMS)
    batched.run().assert_outcomes(passed=2 * ITEMS)
    assert len(server.batches) == 2


def test_what_cannot_wait_is_refused_at_once(batched: Project) -> None:
    result = batched.run("--kvbench-set", "engine.base_url=null")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*mode batch needs a server that outlives the run*"])
