"""What is said of draws: steps that sum to 1, intervals rounded outward, a bump without any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.posterior.curves import curves
from pytest_kvbench.posterior.statements import Posterior, comparisons, statements
from tests.unit.posterior.planted import LADDER, SLOPE, as_if_drawn, key, planted


def posterior(*policies: str, misfit: float = 1.0, **values: object) -> Posterior:
    rng = np.random.default_rng(1)
    data = curves([planted(key(p), SLOPE, 25, rng) for p in policies])
    return Posterior(data, as_if_drawn(data, 200, **values), np.full(len(data.keys), misfit))


@given(st.floats(0, 6), st.floats(0.03, 3), st.floats(0.01, 0.99), st.floats(0.02, 0.5))
def test_steps_are_probabilities_and_the_interval_is_made_of_rungs(
    location: float, scale: float, depth: float, margin: float
) -> None:
    [said] = statements(posterior("p", location=[location], scale=[scale], depth=[depth]), margin)
    assert sum(step.probability for step in said.steps) == pytest.approx(1)
    assert said.interval is not None
    upper, lower = said.interval
    assert upper in (1.0, *LADDER)
    assert lower is None or lower in LADDER
    below = [b.below_margin for b in said.budgets]
    assert below == sorted(below, reverse=True)  # a loss only grows as the budget falls


def test_a_known_curve_is_said_as_it_is() -> None:
    [said] = statements(posterior("p"), 0.10)
    measured = {b.budget: b for b in said.budgets if not b.interpolated}
    assert set(measured) == set(LADDER)
    assert {b.pairs for b in measured.values()} == {25}
    assert measured[0.7].below_margin == 1
    assert measured[0.5].below_margin == 0
    assert said.interval == (0.7, 0.5)
    between = [b.budget for b in said.budgets if b.interpolated]
    assert between == pytest.approx(
        [np.sqrt(a * b) for a, b in zip((1, *LADDER), LADDER, strict=False)]
    )


def test_beyond_the_ladder_is_no_budget() -> None:
    [said] = statements(posterior("p", location=[30.0]), 0.10)
    assert said.steps[-1].probability == 1
    assert said.interval == (0.1, None)


def test_a_curve_that_is_not_monotone_has_no_transition() -> None:
    [said] = statements(posterior("p", misfit=0.001), 0.10)
    assert said.interval is None


def test_better_stands_beside_alike() -> None:
    both = posterior("a", "b", location=[1.6, 2.6])
    at = {c.budget: c for c in comparisons(both, 0.10)}
    assert (at[0.9].better, at[0.9].alike) == (0, 1)  # surely better, and it does not matter
    assert (at[0.3].better, at[0.3].alike) == (0, 0)
    assert {c.better for c in comparisons(posterior("a", "b"), 0.10)} == {0.5}


def test_groups_count_alike_and_by_their_pairs() -> None:
    rng = np.random.default_rng(1)
    where = [key("p", group) for group in ("g", "h")]
    data = curves([planted(where[0], SLOPE, 30, rng), planted(where[1], SLOPE, 10, rng)])
    trace = as_if_drawn(data, 50, location=[0.0, 30.0], depth=[0.999, 0.999], scale=[0.05, 0.05])
    [said] = statements(Posterior(data, trace, np.ones(2)), 0.10)
    assert said.groups == {"g": 0.75, "h": 0.25}
    last = said.budgets[-1]
    assert last.loss == pytest.approx((0.82 + 0.015) / 2, abs=0.02)
