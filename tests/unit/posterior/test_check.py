"""Curves that fit pass, curves that rise again do not, and draws that did not mix say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_kvbench.posterior.check import Diagnostics, misfit, sensitivity
from pytest_kvbench.posterior.curves import curves
from pytest_kvbench.posterior.fit import not_monotone
from tests.unit.posterior.planted import BUMP, CLIFF, FLAT, SLOPE, as_if_drawn, key, planted


def test_a_curve_that_rises_again_is_caught_and_one_that_falls_is_not() -> None:
    rng = np.random.default_rng(5)
    data = curves(
        [
            *(planted(key("bump", f"g{n}"), BUMP, 50, rng) for n in range(5)),
            *(planted(key("slope", f"g{n}"), SLOPE, 50, rng) for n in range(20)),
        ]
    )
    found = misfit(data, as_if_drawn(data, 500), seed=1)
    assert (found[:5] < 0.01).all()
    assert (found[5:] < 0.05).mean() <= 0.15


def test_before_a_fit_too() -> None:
    rng = np.random.default_rng(6)
    bumps = [planted(key("bump", f"g{n}"), BUMP, 40, rng) for n in range(5)]
    falls = [
        planted(key(name, f"g{n}"), truth, 40, rng)
        for name, truth in {"slope": SLOPE, "cliff": CLIFF, "flat": FLAT}.items()
        for n in range(20)
    ]
    assert set(not_monotone([*falls, *bumps], seed=1)) == {p.key for p in bumps}


def test_a_ladder_of_one_rung_cannot_rise() -> None:
    one = planted(key(), SLOPE, 10, np.random.default_rng(1))
    short = type(one)(one.key, (0.5,), one.control, one.treated[:, :1], one.cluster)
    data = curves([short])
    assert misfit(data, as_if_drawn(data, 10), seed=1).tolist() == [1]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((1.02, 900, 900, 0), "R-hat"),
        ((1.0, 300, 900, 0), "bulk"),
        ((1.0, 900, 300, 0), "tail"),
        ((1.0, 900, 900, 0.02), "diverge"),
        ((float("nan"), 900, 900, 0), "R-hat"),
    ],
)
def test_every_bound_is_named_that_is_missed(values: tuple[float, ...], word: str) -> None:
    [problem] = Diagnostics(*values).problems
    assert word in problem


def test_draws_that_mixed_have_no_problem() -> None:
    assert Diagnostics(1.001, 900, 900, 0).problems == ()


def test_what_rests_on_the_prior_is_said_to_move_with_it() -> None:
    data = curves([planted(key(), SLOPE, 10, np.random.default_rng(1))])
    prior = np.linspace(-9, 0, 400)
    firm, leaning = (
        as_if_drawn(data, 400, loss=np.zeros((1, 6)), log_prior=np.array(0.0)) for _ in "ab"
    )
    leaning.posterior["log_prior"].values = prior[None]
    leaning.posterior["loss"].values = (prior[None, :, None, None] < -5) * np.ones((1, 400, 1, 6))
    assert sensitivity(firm, 0.10) == 0
    assert sensitivity(leaning, 0.10) > 0.1
