"""The sanity set: each assertion fails at its few examples when what it watches for is planted."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.responses import JSONResponse

from tests.conftest import Project
from tests.support.mock_server import MockServer

PER_BIN = 3


@pytest.fixture
def sanity(project: Project) -> Project:
    """As `evals/test_sanity.py`: three examples a bin, and the control's floor."""
    file = project.path / "exp.yaml"
    text = file.read_text(encoding="utf-8").replace("per_bin: 10", f"per_bin: {PER_BIN}")
    text = text.replace("budgets: [1.0, 0.5, 0.2]", "budgets: [1.0, 0.2]")
    file.write_text(text.replace("retries: 1", "retries: 0") + "gate: {control_floor: 0.3}\n")
    test = project.path / "test_exp.py"
    test.write_text(test.read_text(encoding="utf-8").replace(".check()", ".check_harness()"))
    return project


def _one_example_is_lost(mock: MockServer) -> None:
    refused = JSONResponse({"error": {"message": "no"}}, status_code=400)
    mock.trouble = lambda number, body: refused if number == 1 else None


def _the_budget_does_nothing(mock: MockServer) -> None:
    mock.achieved = lambda policy, budget: 1.0


def _the_control_finds_nothing(mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 0.0


def _the_answer_leaks(mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 1.0 if policy != "none" else 0.7


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        (_one_example_is_lost, "failed|lost to failures"),
        (_the_budget_does_nothing, "was not applied"),
        (_the_control_finds_nothing, "there is nothing to lose"),
        (_the_answer_leaks, "better than the full cache by control 0.667, treated 1.000"),
    ],
)
def test_each_assertion_can_fail_at_three_examples(
    sanity: Project, mock: MockServer, planted: Callable[[MockServer], None], says: str
) -> None:
    planted(mock)
    result = sanity.run("-n", "0")
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0)
    assert re.search(says, result.stdout.str())
    assert result.ret not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)


def test_a_sane_harness_passes(sanity: Project) -> None:
    sanity.run("-n", "0").assert_outcomes(passed=4)


def test_an_engine_that_proves_nothing_is_skipped_with_a_remedy(
    sanity: Project, mock: MockServer
) -> None:
    """The control and the failures are checked all the same."""
    mock.proves = False
    result = sanity.run("-n", "0", "-rs")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["*does not prove what it kept: serve llama.cpp with*"])


def test_what_is_wrong_beside_proof_is_not_skipped(sanity: Project, mock: MockServer) -> None:
    mock.proves = False
    _the_answer_leaks(mock)
    assert sanity.run("-n", "0").parseoutcomes()["failed"]


@pytest.mark.parametrize("reply", ["", "I cannot help with that."])
def test_a_treated_server_that_says_nothing_fails_and_the_last_line_says_so(
    sanity: Project, mock: MockServer, reply: str
) -> None:
    mock.proves, mock.wrong = False, reply
    mock.accuracy = lambda policy, budget: float(policy == "none")
    result = sanity.run("-n", "0")
    result.assert_outcomes(passed=2, failed=2)
    assert "3 of 3 treated replies are empty or refuse" in result.outlines[-1]


def test_a_gate_says_of_what_holds_that_nothing_proves_it(
    project: Project, mock: MockServer
) -> None:
    mock.proves = False
    file = project.path / "exp.yaml"
    text = file.read_text(encoding="utf-8").replace(
        "n: 2, per_bin: 10, edges: [150]", "n: 1, per_bin: 80"
    )
    file.write_text(text + "gate: {mode: gate}\n")
    result = project.run("-n", "0", "--junitxml=j.xml")
    properties = (project.path / "j.xml").read_text(encoding="utf-8")
    assert properties.count('name="kvbench_doubt" value="unverified"') == 2
    result.stdout.fnmatch_lines(
        ["*UnverifiedWarning: *snapkv-0.20 holds (unverified): control 1.000*"]
    )
    result.stdout.fnmatch_lines(["g, mock: 2 hold (2 placebo[?]) (margin 0.1)"])
