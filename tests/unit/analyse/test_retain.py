"""A margin that is a share of what the control gets right: its level, its power, its words."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline.foresee import foreseen

RETAIN = 0.9


def judged(control: np.ndarray, treated: np.ndarray, retain: float = RETAIN) -> str:
    ids = np.arange(len(control))
    return judge_cell(control, treated, ids, margin=0.1, alpha=0.05, retain=retain).verdict


def drawn(
    random: np.random.Generator, n: int, right: float, kept: float
) -> tuple[np.ndarray, np.ndarray]:
    control = random.random(n) < right
    return control * 1.0, (control & (random.random(n) < kept)) * 1.0


@pytest.mark.parametrize("right", [0.4, pytest.param(0.95, marks=pytest.mark.slow)])
def test_of_an_arm_that_keeps_just_that_share_few_hold_and_few_break(right: float) -> None:
    random = np.random.default_rng(20261127)
    words = [judged(*drawn(random, 120, right, RETAIN)) for _ in range(400)]
    assert words.count("holds") <= 0.04 * len(words)
    assert words.count("breaks") <= 0.04 * len(words)


def test_a_loss_that_an_absolute_margin_hides_breaks() -> None:
    """A control at .4 that loses a quarter of it loses less than .10 of score in all."""
    random = np.random.default_rng(1)
    control, treated = drawn(random, 600, 0.3, 0.7)
    ids = np.arange(len(control))
    assert judge_cell(control, treated, ids, margin=0.10, alpha=0.05).verdict != "breaks"
    assert judged(control, treated) == "breaks"


def test_nothing_lost_holds_and_the_interval_agrees_with_the_verdict() -> None:
    control = np.repeat([1.0, 0.0], [60, 20])
    ids = np.arange(80)
    for lost in (0, 3, 30):
        treated = control.copy()
        treated[:lost] = 0.0
        found = judge_cell(control, treated, ids, margin=0.1, alpha=0.05, retain=RETAIN)
        allowed = (1 - RETAIN) * control.mean()
        assert found.ci_low is not None
        assert found.ci_high is not None
        assert found.delta == pytest.approx((treated - control).mean())
        assert (found.verdict == "holds") == (found.ci_low > -allowed)
        assert (found.verdict == "breaks") == (found.ci_high < -allowed)
    assert judged(control, control) == "holds"


def test_bins_weigh_alike() -> None:
    bins = [Pairs(np.ones(n), np.ones(n), np.arange(n)) for n in (30, 60)]
    found = judge_pooled(bins, margin=0.1, alpha=0.05, retain=RETAIN)
    assert (found.verdict, found.delta) == ("holds", pytest.approx(0.0))


def test_a_plan_knows_how_many_it_takes() -> None:
    plan = {"group": "g", "tasks": ["niah/single"], "kv": {"budgets": [1.0, 0.5]}}
    bins = {"n": 1, "per_bin": 20}
    found = Experiment(**plan, bins=bins, gate={"margin": {"retain": 0.95}})
    (prospect,) = foreseen(found).values()
    assert (prospect.holds, prospect.needed) == (False, 76)
    assert found.snapshot()["gate"]["margin"] == {"retain": 0.95}
