"""Sweeps in stages: many arms on few examples, then what survived on more."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.conftest import Project
from tests.support.mock_server import MockServer

BREADTH, DEPTH = 2 * 12, 2 * 20
"""Examples: bins x per bin."""
STAGES = """
stages:
  breadth: {bins: {per_bin: 12}}
  depth: {bins: {per_bin: 20}}
"""


@pytest.fixture
def staged(project: Project, mock: MockServer) -> Project:
    """Of the budgets 0.5 and 0.2 the second loses everything."""
    path = project.path / "exp.yaml"
    path.write_text(path.read_text() + STAGES)
    mock.accuracy = lambda policy, budget: float(budget > 0.2)
    return project


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_the_next_stage_asks_only_what_survived(staged: Project, mock: MockServer, n: str) -> None:
    result = staged.run("-n", n, "-v")
    result.assert_outcomes(passed=2 * 3 + 2 * 2, skipped=2)
    depth = staged.summary("g.depth")
    shared = sum(used["reused"] for used in depth["provenance"]["controls"])
    asked = BREADTH * 3 + DEPTH * 2 - shared
    assert sum(mock.asked.values()) == asked
    assert all(n == 1 for n in mock.controls)
    assert {(c["policy"], c["budget"]) for c in depth["cells"] if c["verdict"]} == {("snapkv", 0.5)}
    assert depth["experiment"]["dropped"] == {"jsonl:words.jsonl": ["snapkv-0.20"]}
    assert not depth["partial"]
    skipped = [line for line in result.outlines if "SKIPPED" in line]
    assert all("depth-" in line and "snapkv-0.20" in line for line in skipped)
    again = staged.run("-n", n)
    again.assert_outcomes(passed=10, skipped=2)
    assert sum(mock.asked.values()) == asked


def test_each_stage_draws_its_own_examples(staged: Project) -> None:
    staged.run()
    drawn = [
        {e["example"]["example_id"] for task in json.loads(text)["tasks"] for e in task["entries"]}
        for group in ("g.breadth", "g.depth")
        if (text := (staged.path / "reports" / group / "manifest.json").read_text())
    ]
    assert [len(d) for d in drawn] == [BREADTH, DEPTH]
    assert drawn[0] - drawn[1]


def test_a_stage_alone_asks_for_the_one_before(staged: Project, mock: MockServer) -> None:
    alone = staged.run("-k", "depth")
    assert alone.ret == 4
    alone.stdout.fnmatch_lines(["*no group has been run there*"])
    assert mock.posts == 0
    staged.run("-k", "breadth").assert_outcomes(passed=6, deselected=6)
    staged.run("-k", "depth").assert_outcomes(passed=4, skipped=2, deselected=6)


def test_the_plan_shows_every_stage(staged: Project, mock: MockServer) -> None:
    result = staged.run("--kvbench-plan")
    result.stdout.fnmatch_lines(["*plan of g.breadth*", "*72 requests*", "*plan of g.depth*"])
    result.stdout.fnmatch_lines(["*120 requests*"])
    assert mock.posts == 0


def test_a_mistake_names_the_stage(staged: Project) -> None:
    result = staged.run("--kvbench-set", "stages.depth.bins.perbin=3")
    assert result.ret == 4
    result.stdout.fnmatch_lines(
        ["*stages.depth.bins.perbin: unknown key", "did you mean per_bin?*"]
    )
    none = staged.run("--kvbench-set", "stages=[]")
    assert none.ret == 4


def test_a_snapshot_of_a_stage_is_an_experiment(staged: Project, mock: MockServer) -> None:
    staged.run()
    snapshot = staged.summary("g.depth")["experiment"]
    (staged.path / "exp.yaml").write_text(yaml.safe_dump(snapshot))
    posts = mock.posts
    staged.run().assert_outcomes(passed=4)
    assert mock.posts == posts
