"""A roster: several models by one file, planned, run, resumed and reported together."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.mock_server import MockServer

ROSTER = """
matrix: {engine.model: [one, two]}
stages:
  breadth: {bins: {per_bin: 12}}
  depth: {bins: {per_bin: 20}}
"""
GROUPS = [f"g@{model}.{stage}" for model in ("one", "two") for stage in ("breadth", "depth")]


@pytest.fixture
def roster(project: Project, mock: MockServer) -> Project:
    """Of the budgets 0.5 and 0.2 the second loses everything, for the second model alone."""
    path = project.path / "exp.yaml"
    path.write_text(path.read_text() + ROSTER)
    last = {}
    mock.aliases = ["one", "two"]
    mock.trouble = lambda number, body: last.update(model=body["model"])
    mock.accuracy = lambda policy, budget: float(budget > 0.2 or last["model"] == "one")
    return project


def test_one_file_asks_every_model_once_and_reports_each(roster: Project, mock: MockServer) -> None:
    roster.run("-n", "0").assert_outcomes(passed=12 + 10, skipped=2)
    asked = sum(mock.asked.values())
    for group in GROUPS:
        summary = roster.summary(group)
        assert summary["experiment"]["engine"]["model"] == group[2:5]
        assert not summary["partial"]
    assert roster.summary("g@two.depth")["experiment"]["dropped"] == {
        "jsonl:words.jsonl": ["snapkv-0.20"]
    }
    assert roster.summary("g@one.depth")["experiment"]["dropped"] == {}
    again = CliRunner().invoke(main, ["run", "exp.yaml"])
    assert again.exit_code == 0, again.output
    assert all(f"{group}: 0 answered" in again.output for group in GROUPS)
    assert sum(mock.asked.values()) == asked
    done = CliRunner().invoke(main, ["report", "g"])
    assert [line.split("/")[-2] for line in done.output.splitlines()] == GROUPS
