"""Self-consistency in a whole run: k requests and one answer, a dial like any other."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.aggregate import FOLDER, aggregate, frame
from pytest_kvbench.ops.arms import judged_arms
from pytest_kvbench.ops.best import best
from pytest_kvbench.ops.effects import effects
from pytest_kvbench.ops.recipes import with_dials
from tests.conftest import Project
from tests.support.mock_server import MockServer

WARM = ("--kvbench-set", "sampling.temperature=0.7")
FIVE = (*WARM, "--kvbench-set", "sampling.self_consistency=5")


def drawn(project: Project, group: str = "g") -> dict[tuple[Any, ...], list[float]]:
    """By bin, budget and example: the samples' scores in order."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    with sqlite3.connect(project.path / "reports" / group / "kvbench.sqlite") as db:
        for *cell, score in db.execute(
            "SELECT bin, budget, example_id, value FROM requests JOIN arms USING (arm_id)"
            " JOIN scores USING (key) ORDER BY replicate"
        ):
            found[tuple(cell)].append(score)
    return found


def majority(scores: Sequence[float]) -> float:
    return float(sum(scores) > len(scores) / 2)


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_five_samples_are_asked_and_their_majority_is_judged(
    project: Project, mock: MockServer, n: str
) -> None:
    mock.accuracy = lambda policy, budget: 0.75 if policy == "none" else 0.6
    project.run("-n", n, *FIVE).assert_outcomes(passed=6)
    assert sum(mock.asked.values()) == 5 * 60
    assert set(mock.asked.values()) == {1}
    summary, samples = project.summary(), drawn(project)
    assert {len(scores) for scores in samples.values()} == {5}
    for cell in summary["cells"]:
        if cell["bin"] != "all" and cell["verdict"]:
            voted = [
                majority(scores)
                for (bin_, budget, _), scores in samples.items()
                if (bin_, budget) == (cell["bin"], cell["budget"])
            ]
            assert cell["treated_mean"] == pytest.approx(sum(voted) / len(voted))
            assert cell["n"] == 10
    plain = [score for scores in samples.values() for score in scores]
    votes = [majority(scores) for scores in samples.values()]
    assert sum(votes) / len(votes) > sum(plain) / len(plain), "or the test shows nothing"
    assert not summary["partial"]
    assert summary["efficiency"]["answers"] == 60
    assert summary["efficiency"]["completion_tokens"] == 5 * 60


def test_samples_are_trials_of_another_group_and_controls_are_shared(
    project: Project, mock: MockServer
) -> None:
    mock.accuracy = lambda policy, budget: 0.7
    project.run("-n", "0", *WARM, "--kvbench-set", "sampling.trials=5")
    controls, posts = len(mock.controls), mock.posts
    project.run("-n", "0", *FIVE, "--kvbench-set", "group=voted")
    assert len(mock.controls) == controls == 100
    assert mock.posts > posts
    assert set(mock.controls) == {1}
    # the same group, judged as votes: nothing is asked again
    posts = mock.posts
    project.run("-n", "0", *FIVE).assert_outcomes(passed=6)
    assert mock.posts == posts
    assert project.summary()["cells"] == project.summary("voted")["cells"]


def test_a_failed_sample_fails_its_vote(project: Project, mock: MockServer) -> None:
    def trouble(number: int, body: dict[str, Any]) -> JSONResponse | None:
        text = body["messages"][-1]["content"][-1]["text"]
        broken = "red0" in text and body["seed"] == 2
        return JSONResponse({"error": {"message": "no"}}, 400) if broken else None

    mock.trouble = trouble
    project.run("-n", "0", *FIVE)
    failed = [s for s in project.summary()["bin_stats"] if s["fail_rate"]]
    assert [s["fail_rate"] for s in failed] == pytest.approx([0.1] * 3), "one answer of ten"


def test_votes_that_lack_samples_are_not_judged(project: Project, mock: MockServer) -> None:
    project.run("-n", "0", *WARM)

    def die(number: int, body: dict[str, Any]) -> None:
        mock._server.end()

    mock.trouble, mock.latency_s = die, 1.0  # it takes a tenth of a second to die
    result = project.run("-n", "0", *FIVE)
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*kvbench g -*", "the server at * is gone: *"])
    result.stdout.no_fnmatch_line("*undetermined*")
    done = CliRunner().invoke(main, ["analyse", "g"])
    assert (done.exit_code, "no vote has all its samples yet" in done.output) == (4, True)


def test_sequential_sampling_goes_by_votes(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: {0.2: 0.0}.get(budget, 0.9)
    sequential = ("sampling.strategy=sequential", "bins.per_bin={min: 8, max: 50}")
    more = [part for text in (*sequential, "gate.margin=0.3") for part in ("--kvbench-set", text)]
    project.run("-n", "0", *FIVE, *more).assert_outcomes(passed=6)
    asked = drawn(project)
    assert {len(scores) for scores in asked.values()} == {5}
    by_budget = defaultdict(list)
    for (_, budget, _), scores in asked.items():
        by_budget[budget].append(scores)
    assert len(by_budget[0.2]) < len(by_budget[0.5]), "the cliff is seen first"
    posts, first = mock.posts, project.summary()
    project.run("-n", "0", *FIVE, *more)
    assert (mock.posts, project.summary()["cells"]) == (posts, first["cells"])
    assert (first["partial"], first["missing"]) == (False, [])


def test_fresh_votes_begin_where_a_vote_begins(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 0.7
    project.run("-n", "0", *WARM)
    project.run("-n", "0", *FIVE, "--kvbench-fresh").assert_outcomes(passed=6)
    assert project.summary()["provenance"]["replicate_offset"] == 5
    assert project.summary()["efficiency"]["answers"] == 60


def test_votes_are_a_dial_in_effects_and_a_setting_of_their_own_in_best(
    project: Project, mock: MockServer
) -> None:
    mock.accuracy = lambda policy, budget: 0.75
    project.run("-n", "0", *WARM, "--kvbench-set", "group=single")
    project.run("-n", "0", *FIVE, "--kvbench-set", "group=voted")
    reports = project.path / "reports"
    aggregate([reports], reports / FOLDER)
    answers, runs, cells = (frame(reports / FOLDER, t) for t in ("answers", "runs", "cells"))
    arms = judged_arms(answers, runs, cells)
    rows = effects(with_dials(answers, runs, cells), arms)
    dial = rows[rows["dial"] == "self_consistency"]
    assert (set(dial["from"]), set(dial["to"]), set(dial["n"]), len(dial)) == ({1}, {5}, {20}, 3)
    samples = drawn(project, "voted").values()
    assert dial["mean_to"].mean() == pytest.approx(sum(map(majority, samples)) / 60)
    assert dial["mean_from"].mean() == pytest.approx(sum(s[0] for s in samples) / 60)
    assert sorted(set(best(arms)["self_consistency"])) == [1, 5]
    assert answers.groupby("self_consistency")["elected"].sum().to_dict() == {1: 60, 5: 60}
    assert sorted(runs["self_consistency"]) == [1, 5]
