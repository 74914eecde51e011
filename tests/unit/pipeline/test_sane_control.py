"""A control is sane where it has something to lose."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.observation import Observation, Outcome
from pytest_kvbench.pipeline.sane_control import (
    PROBE,
    Reply,
    asked_first,
    problem,
    replies,
    sick_controls,
)
from pytest_kvbench.records import Arm, Cell, Example, Label, Prompt, Request, Sampling
from pytest_kvbench.score.metric import get_metric

LABELS = st.sampled_from(["", "EMPTY_OUTPUT", "TRUNCATED", "FORMAT_ERROR", "REFUSAL"])
ANY = st.builds(Reply, st.sampled_from([0.0, 0.3, 1.0]), LABELS, st.just(0.0))


def planned(examples: int, aa: bool = False) -> list[tuple[Cell, Request]]:
    arm = Arm("local", "m", "f", "none", 1.0, Sampling(), "t")
    pairs = []
    for example in range(examples):
        for policy, budget in (("none", 1.0), ("knorm", 0.5), ("knorm", 0.2)):
            mine = dataclasses.replace(arm, policy=policy, budget=budget)
            for again in (False, True) if aa and policy == "none" else (False,):
                request = Request(mine, "t", 0, f"e{example}", 0, Prompt("", "", 1), aa=again)
                pairs.append((Cell("t", 0, policy, budget), request))
    return pairs


def test_controls_go_first_where_they_cost_no_more() -> None:
    first = asked_first(planned(20, aa=True), shares_prefill=False)
    assert len(first) == 2 * 20
    assert all(cell.is_control for cell, _ in first)


def test_a_few_whole_sweeps_go_first_where_a_control_costs_as_much() -> None:
    first = asked_first(planned(20), shares_prefill=True)
    assert len(first) == 3 * PROBE
    assert {CellGroup.of(cell) for cell, _ in first} == {CellGroup("t", 0)}
    assert len(asked_first(planned(3), shares_prefill=True)) == 9


@given(st.lists(ANY, max_size=30))
def test_useless_replies_are_counted_against_the_threshold(seen: list[Reply]) -> None:
    useless = [
        r
        for r in seen
        if r.label in ("EMPTY_OUTPUT", "REFUSAL") or (r.label, r.score) == ("TRUNCATED", 0)
    ]
    found = problem(seen, Gate(max_sick=0.25), shortest=False, whole=True)
    assert bool(found) == (len(useless) > len(seen) / 4)
    assert not problem(seen, Gate(max_sick=1), shortest=False, whole=True)


@pytest.mark.parametrize(
    ("right", "of", "chance", "floor", "sane"),
    [
        (0, 10, 0.0, None, False),
        (1, 10, 0.0, None, True),
        (2, 8, 0.25, None, False),
        (3, 8, 0.25, None, True),
        (3, 8, 0.25, 0.5, False),
        (1, 8, 0.25, 0.0, True),
    ],
)
def test_the_shortest_prompts_must_beat_chance(
    right: int, of: int, chance: float, floor: float | None, sane: bool
) -> None:
    seen = [Reply(float(n < right), "", chance) for n in range(of)]
    found = problem(seen, Gate(control_floor=floor), shortest=True, whole=True)
    assert (not found) == sane
    assert not problem(seen, Gate(control_floor=floor), shortest=False, whole=True)


def test_a_few_may_be_wrong_by_bad_luck() -> None:
    seen = [Reply(0.0, "", 0.0)] * (PROBE - 1)
    assert not problem(seen, Gate(), shortest=True, whole=False)
    assert problem(seen, Gate(), shortest=True, whole=True)
    assert problem([*seen, *seen], Gate(), shortest=True, whole=False)


def observed(cell: Cell, score: float | None, aa: bool = False, label: Label = "") -> Observation:
    outcome = Outcome("k", score=score, label=label, failure="" if score is not None else "TIMEOUT")
    return Observation(cell, 0, aa, "e", "c", 0.25, "proven", outcome)


def test_replies_are_those_of_the_control_without_failures_and_repetitions() -> None:
    control = Cell("t", 0, "none", 1.0)
    others = [observed(control, 1.0, aa=True), observed(control, None)]
    treated = observed(Cell("t", 0, "knorm", 0.5), 1.0)
    assert replies([observed(control, 1.0), *others, treated]) == [Reply(1.0, "", 0.25)]


def test_guessing_scores_where_there_are_options() -> None:
    meta = {"options": ["a", "b", "c", "d"]}
    example = Example("e", "q", "c", ("A",), meta)
    assert get_metric("choice").chance(example.meta) == 0.25
    assert get_metric("f1").chance(example.meta) == 0.0


def test_a_sick_control_is_found_by_task_bin_and_variant() -> None:
    rows = [
        observed(Cell("t", 0, "none", 1.0, "v"), 0.0),
        observed(Cell("t", 1, "none", 1.0, "v"), 0.0, label="EMPTY_OUTPUT"),
        observed(Cell("t", 2, "none", 1.0, "v"), 0.0),
        observed(Cell("t", 3, "knorm", 0.5, "v"), 0.0),
    ]
    assert list(sick_controls(Gate(), rows)) == [CellGroup("t", n, "v") for n in (0, 1)]
