"""An arm that is known to be bad runs along, must break, and counts nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import assay, plan
from pytest_kvbench.pipeline.browse import answers_of
from pytest_kvbench.pipeline.group import open_group
from pytest_kvbench.report.pages.packed import example
from tests.conftest import Project
from tests.support.mock_server import MockServer

BAD = {"policy": "random", "budget": 0.1}


def kvbench(*args: object) -> str:
    done = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    return done.output


def with_bad(project: Project, **bad: Any) -> None:
    file = project.path / "exp.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}sensitivity: {json.dumps(bad)}\n", encoding="utf-8")


def loses_at_random(policy: str, budget: float) -> float:
    return 0.1 if policy == "random" else 1.0


def test_it_breaks_and_is_no_cell(project: Project, mock: MockServer) -> None:
    mock.accuracy = loses_at_random
    project.run("-n", "0").assert_outcomes(passed=6)
    plain = project.summary()
    with_bad(project, **BAD)
    project.run("-n", "0", "--kvbench-set", "group=bad").assert_outcomes(passed=6)
    found = project.summary("bad")
    assert plain["sensitivity"] == []
    (row,) = found["sensitivity"]
    assert (row["policy"], row["budget"], row["bin"], row["verdict"]) == (
        "random",
        0.1,
        "all",
        "breaks",
    )
    for key in ("cells", "transitions", "bin_stats", "missing", "flips"):
        assert [without_times(r) for r in found[key]] == [without_times(r) for r in plain[key]]
    asked = [summary["integrity"]["requests"] for summary in (plain, found)]
    assert asked == [60, 80]  # nothing that was asked is hidden


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "latency" not in name}


def test_where_nothing_is_lost_the_report_says_so(project: Project) -> None:
    with_bad(project, **BAD)
    project.run("-n", "0", "--kvbench-report")
    (note,) = project.summary()["integrity"]["notes"][-1:]
    assert note.startswith("insensitive: jsonl:words.jsonl bin all random 0.1, known to be bad")
    report = (project.path / "reports/g/report.md").read_text(encoding="utf-8")
    assert "does not break" in report
    assert "a `holds` there means little" in report


def test_it_is_no_best_and_no_effect(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock.accuracy = loses_at_random
    with_bad(project, **BAD)
    monkeypatch.chdir(project.path)
    assert "snapkv" in kvbench("all", "exp.yaml")
    for command in (["best"], ["effects"], ["insights", "--to", "insights.md"]):
        assert "random" not in kvbench(*command)
    assert "random" not in Path("insights.md").read_text(encoding="utf-8")


def test_the_context_withheld_on_the_controls_own_server(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = mock.word_of
    mock.word_of = lambda prompt: right(prompt) if "text" in prompt else "nothing"
    with_bad(project, policy="withheld")
    project.run("-n", "0").assert_outcomes(passed=6)
    (row,) = project.summary()["sensitivity"]
    assert (row["policy"], row["verdict"], row["treated_mean"]) == ("withheld", "breaks", 0.0)
    assert {policy for _, policy, _, _ in mock.asked} == {"none", "snapkv"}
    flags = [flag for row in project.summary()["cells"] for flag in row["flags"]]
    assert not any(flag.startswith("cut") for flag in flags)  # nothing was, but left away
    monkeypatch.chdir(project.path)
    prompts: Any = example(answers_of(open_group(Path("reports/g")), []), 0)["prompts"]
    assert "text" in prompts[""]["head"][0]
    assert prompts[" withheld"]["head"] == [""], "the page shows what that arm was sent"


EXPERIMENT: dict[str, Any] = {
    "group": "g",
    "tasks": ["niah/single"],
    "kv": {"policies": ["snapkv"], "budgets": [1.0, 0.5]},
}


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({}, ("random", 0.1)),
        ({"sensitivity": None}, None),
        ({"tasks": ["jsonl:words.jsonl"]}, None),
        ({"engine": {"sweep": False}}, None),
        ({"engine": {"name": "llamacpp"}, "kv": {"policies": ["q4_0"]}}, None),
        ({"kv": {"policies": ["none"]}}, None),
        ({"gate": {"mode": "certify"}}, ("random", 0.1)),
        ({"gate": {"mode": "certify"}, "tasks": ["jsonl:words.jsonl"]}, ("withheld", 1.0)),
        ({"sensitivity": {"policy": "withheld"}}, ("withheld", 1.0)),
    ],
)
def test_which_arm_it_is_by_itself(changes: dict[str, Any], bad: tuple[str, float] | None) -> None:
    experiment = Experiment(**{**EXPERIMENT, **changes})
    assert assay.arm(experiment, experiment.tasks[0]) == bad


def test_an_arm_of_the_plan_may_be_it_and_is_asked_once() -> None:
    experiment = Experiment(**{**EXPERIMENT, "kv": {"policies": ["random"], "budgets": [1.0, 0.1]}})
    cells = plan.cells(experiment)
    assert [arm.is_listed for arm in assay.bad_arms(experiment, cells)] == [True]
    for members in plan.groups(cells).values():
        assert plan.asked(experiment, members) == members


@pytest.mark.parametrize(
    ("bad", "valid"),
    [
        ({"policy": "rendom"}, "Valid: "),
        ({"policy": "none"}, "valid: withheld"),
        ({"budget": 0.1}, "valid: an arm that is known to be bad"),
    ],
)
def test_one_that_nobody_has_is_refused(project: Project, bad: dict[str, Any], valid: str) -> None:
    with_bad(project, **bad)
    result = project.run("-n", "0")
    assert result.ret == 4
    assert valid in result.stdout.str()
