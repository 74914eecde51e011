"""A full cache that says the same twice: nothing can be above it, and a loss shows the sooner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pytest_kvbench.analyse.cell import CellResult, judge_cell
from pytest_kvbench.analyse.pooled import Pairs
from pytest_kvbench.analyse.readings import Rule, judge_bins
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline.measures import ROUNDING
from pytest_kvbench.pipeline.rules import rules_of

ALPHA = 0.05
OVERLAPS = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=30)


def judged(treated: np.ndarray, margin: float, room: float = ROUNDING) -> CellResult:
    n = len(treated)
    return judge_cell(np.ones(n), treated, np.arange(n), margin=margin, alpha=ALPHA, room=room)


@pytest.mark.parametrize(("n", "margin"), [(2, 0.02), (2, 0.1), (3, 0.05), (6, 0.02), (13, 0.05)])
def test_a_loss_of_the_margin_breaks_as_seldom_as_promised(n: int, margin: float) -> None:
    """Exactly, not by drawing: some prompts lose much, and the others nothing."""
    for loss in np.linspace(margin * 1.02, 0.99, 10):
        words = (judged(1 - np.repeat([loss, 0.0], [k, n - k]), margin) for k in range(n + 1))
        chances = binom.pmf(np.arange(n + 1), n, margin / loss)
        wrong = sum(p for p, one in zip(chances, words, strict=True) if one.verdict == "breaks")
        assert wrong <= ALPHA / 2, f"a loss of {loss:.2f} on {margin / loss:.2f} of prompts"


@given(OVERLAPS)
def test_only_breaks_comes_sooner(treated: list[float]) -> None:
    known, unknown = (judged(np.array(treated), 0.05, room) for room in (ROUNDING, 1.0))
    assert known.p_holds == pytest.approx(unknown.p_holds), "what was not seen may still be lost"
    assert known.ci_low == pytest.approx(unknown.ci_low)
    assert known.p_breaks <= unknown.p_breaks + 1e-9  # type: ignore[operator]
    assert known.ci_high <= ROUNDING  # type: ignore[operator]


def test_six_prompts_break_where_nothing_can_be_gained() -> None:
    treated = 1 - np.array([0.10, 0.14, 0.06, 0.12, 0.09, 0.11])
    assert judged(treated, 0.05).verdict == "breaks"
    assert judged(treated, 0.05, room=1.0).verdict == "undetermined"
    bins = [Pairs(np.ones(6), treated, np.arange(6)), Pairs(np.ones(6), treated, np.arange(6))]
    rule = Rule(margin=0.05, alpha=ALPHA, room=ROUNDING)
    assert judge_bins(bins, rule).verdict == "breaks"
    for found in (judged(treated, 0.05), judge_bins(bins, rule)):
        assert found.method.endswith(", none above its control"), "a reader can tell"
    for found in (judged(treated, 0.05, room=1.0), judge_bins(bins, replace(rule, room=1.0))):
        assert "control" not in found.method
    assert judge_bins(bins, replace(rule, room=1.0)).verdict == "undetermined"


@given(OVERLAPS, st.floats(0, 0.999))
def test_a_control_below_one_belies_it(treated: list[float], noisy: float) -> None:
    control = np.ones(len(treated))
    control[0] = noisy
    rows = [
        judge_cell(control, treated, range(len(treated)), margin=0.05, alpha=ALPHA, room=room)
        for room in (ROUNDING, 1.0)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("engine", "measure", "room"),
    [
        ({"name": "local", "model": "smollm2-135m"}, "overlap", ROUNDING),
        ({"name": "local", "model": "smollm2-135m"}, "same_top", ROUNDING),
        ({"name": "local", "model": "smollm2-135m"}, "score", 1.0),
        ({"name": "vllm", "model": "m"}, "same_top", 1.0),
        ({"name": "openai", "model": "m"}, "prefix", 1.0),
    ],
)
def test_who_says_the_same_twice(engine: dict[str, str], measure: str, room: float) -> None:
    gate = {} if measure == "score" else {"divergence": {"measure": measure}}
    experiment = Experiment.model_validate(
        {
            "group": "g",
            "tasks": ["niah/single"],
            "bins": {"n": 1, "per_bin": 2},
            "kv": {"budgets": [1.0, 0.5], "policies": ["knorm"]},
            "engine": engine,
            "measure": ["score", "divergence"],
            "gate": gate,
        }
    )
    assert rules_of(experiment, measure).room == room
