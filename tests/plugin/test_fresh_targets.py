"""`kvbench targets --fresh`: an arm whose run was taken out of the store is asked anew, alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from starlette.responses import Response

from pytest_kvbench.cli import main
from tests.conftest import Project
from tests.support.mock_server import MockServer


def targets(*args: str) -> Result:
    return CliRunner().invoke(main, ["targets", "g", *args])


@pytest.fixture
def built(project: Project) -> Iterator[Project]:
    project.run()
    done = targets()
    assert "2 runs made" in done.output, done.output
    yield project
    assert not [path for path in Path("runs/.fresh").glob("*") if path.name != ".lock"]


def run_of(budget: float) -> Path:
    return next(
        meta.parent
        for meta in Path("runs").glob("targets/tgt_*/run_*/meta.json")
        if json.loads(meta.read_text())["dims"]["budget"] == budget
    )


def scores(run: Path) -> list[float]:
    return [json.loads(line)["score"] for line in (run / "answers.jsonl").open()]


def test_only_the_arm_that_is_gone_is_asked_with_the_same_requests(
    built: Project, mock: MockServer
) -> None:
    lost, asked = run_of(0.2), dict(mock.asked)
    before = {path.name: path.read_bytes() for path in lost.iterdir()}
    database = (built.path / "reports/g/kvbench.sqlite").read_bytes()
    shutil.rmtree(lost)
    done = targets("--fresh")
    assert "g: 1 arm asked anew" in done.output, done.output
    assert "1 run made, 1 there already" in done.output
    new = {key: n - asked.get(key, 0) for key, n in mock.asked.items() if n != asked.get(key, 0)}
    assert (len(new), set(new.values())) == (20, {1})
    assert {name: (lost / name).read_bytes() for name in before} | {
        "timings.json": before["timings.json"]
    } == before
    assert (built.path / "reports/g/kvbench.sqlite").read_bytes() == database


def test_what_it_answers_now_is_the_run_and_the_group_keeps_what_it_had(
    built: Project, mock: MockServer
) -> None:
    lost = run_of(0.5)
    shutil.rmtree(lost)
    mock.accuracy = lambda policy, budget: 0.0
    assert targets("--fresh").exit_code == 0
    assert set(scores(lost)) == {0.0}
    shutil.rmtree(lost)
    before = sum(mock.asked.values())
    assert "1 run made" in targets().output
    assert set(scores(lost)) != {0.0}
    assert sum(mock.asked.values()) == before


def test_what_failed_makes_no_run_and_is_asked_alone_the_next_time(
    built: Project, mock: MockServer
) -> None:
    before = sum(mock.asked.values())
    assert "0 runs made, 2 there already" in targets("--fresh").output
    assert sum(mock.asked.values()) == before
    shutil.rmtree(run_of(0.2))
    last = mock.posts + 15
    mock.trouble = lambda n, _: Response("busy", 500) if n > last else None
    failed = targets("--fresh")
    assert failed.exit_code == 10, failed.output
    assert "5 requests failed, so no run is made" in failed.output
    mock.trouble = lambda n, _: None
    assert "1 run made, 1 there already" in targets("--fresh").output
    assert sum(mock.asked.values()) == before + 20


def test_another_server_than_the_one_that_answered_makes_no_run_of_this_name(
    built: Project, mock: MockServer
) -> None:
    shutil.rmtree(run_of(0.2))
    before, mock.fingerprint = mock.posts, {"weights": "other"}
    refused = targets("--fresh")
    assert refused.exit_code == 4
    assert "its server is another one" in refused.output
    assert mock.posts == before
