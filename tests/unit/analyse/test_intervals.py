"""The two kinds of evidence against figures that are known otherwise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv

from pytest_kvbench.analyse.binary import BinaryPairs, restricted_rates
from pytest_kvbench.analyse.bounded import BoundedMean
from pytest_kvbench.analyse.cell import evidence_of
from pytest_kvbench.analyse.evidence import interval, lower_limit, p_breaks, p_holds


@st.composite
def counts(draw, most=60):
    n = draw(st.integers(1, most))
    losses = draw(st.integers(0, n))
    return BinaryPairs(losses, draw(st.integers(0, n - losses)), n)


def trinomial_tail(pairs: BinaryPairs, loss: float, gain: float) -> float:
    n, seen = pairs.n, pairs.gains - pairs.losses
    return sum(
        math.comb(n, b) * math.comb(n - b, c) * loss**b * gain**c * (1 - loss - gain) ** (n - b - c)
        for b, c in itertools.product(range(n + 1), repeat=2)
        if b + c <= n and c - b >= seen
    )


@given(counts(most=12), st.floats(-0.95, 0.95))
def test_binary_p_is_the_enumerated_tail_at_the_restricted_rates(pairs, delta):
    loss, gain = restricted_rates(pairs.losses, pairs.gains, pairs.n, delta)
    assert pairs.p_above(delta) == pytest.approx(trinomial_tail(pairs, loss, gain), abs=1e-12)


@given(counts(most=40), st.floats(-0.95, 0.95))
def test_restricted_rates_are_the_likeliest_that_differ_by_delta(pairs, delta):
    def log_likelihood(loss):
        gain = loss + delta
        rest = max(1 - loss - gain, 0.0)
        terms = ((pairs.losses, loss), (pairs.gains, gain))
        terms = (*terms, (pairs.n - pairs.losses - pairs.gains, rest))
        return sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

    loss, gain = restricted_rates(pairs.losses, pairs.gains, pairs.n, delta)
    assert gain - loss == pytest.approx(delta, abs=1e-12)
    grid = np.linspace(max(0.0, -delta), (1 - delta) / 2, 400)
    assert log_likelihood(loss) >= max(map(log_likelihood, grid)) - 1e-7


@given(counts())
def test_binary_p_rises_with_the_hypothesis(pairs):
    p = [pairs.p_above(delta) for delta in np.linspace(-0.99, 0.99, 60)]
    assert np.diff(p).min() > -1e-12


@pytest.mark.parametrize("n", [1, 13, 35, 36, 100, 100_000])
def test_without_a_discordant_pair_the_p_value_is_exact(n):
    assert BinaryPairs(0, 0, n).p_above(-0.1) == pytest.approx(0.9**n, rel=1e-6, abs=1e-13)


@pytest.mark.parametrize(("n", "bound"), [(13, 0.206), (24, 0.117), (50, 0.058), (300, 0.0099)])
def test_zero_losses_bound_the_loss_as_they_should(n, bound):
    assert -lower_limit(BinaryPairs(0, 0, n), 0.05) == pytest.approx(bound, abs=5e-4)


def test_binary_coverage_is_never_below_nominal_for_rare_losses():
    """Every outcome of n pairs, weighted exactly: no simulation."""
    for n, loss in itertools.product((13, 24, 50), (0.02, 0.05, 0.15, 0.40)):
        covered = sum(
            math.comb(n, k) * loss**k * (1 - loss) ** (n - k)
            for k in range(n + 1)
            for low, high in [interval(BinaryPairs(k, 0, n), 0.05)]
            if low <= -loss <= high
        )
        assert covered >= 0.95, (n, loss)


def bounded(values, floor=-1.0) -> BoundedMean:
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    return BoundedMean(len(values), mean, values - mean, np.ones(len(values)), floor=floor)


@pytest.mark.parametrize("n", [5, 20, 200])
@pytest.mark.parametrize("level", [0.025, 0.0005])
def test_bounded_mean_of_right_or_wrong_is_clopper_pearson(n, level):
    for k in (0, 1, n // 3, n - 1):
        values = np.repeat([-1.0, 0.0], [k, n - k])
        exact = -float(betaincinv(k + 1, n - k, 1 - level))
        assert lower_limit(bounded(values), level) == pytest.approx(exact, abs=0.003)


def test_bounded_mean_is_the_dirichlet_quantile_it_says():
    random = np.random.default_rng(7)
    values = random.uniform(-0.4, 0.3, 12)
    weights = random.dirichlet(np.ones(13), size=200_000)
    drawn = np.quantile(weights @ np.append(values, -1.0), 0.025)
    assert lower_limit(bounded(values), 0.025) == pytest.approx(drawn, abs=0.006)


def test_bounded_mean_approaches_the_normal_interval():
    values = np.random.default_rng(3).uniform(-0.5, 0.5, 20_000)
    low, high = interval(bounded(values), 0.05)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / len(values) ** 0.5, rel=0.03)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_bounded_p_rises_with_the_hypothesis(values):
    p = [bounded(values).p_above(delta) for delta in np.linspace(-0.99, 0.99, 50)]
    assert np.diff(p).min() > -1e-3


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.sampled_from([0.2, 0.05, 0.001]))
def test_bounded_interval_holds_its_estimate_and_has_a_width(values, alpha):
    evidence = bounded(values)
    low, high = interval(evidence, alpha)
    assert -1 <= low <= evidence.estimate + 1e-12
    assert evidence.estimate - 1e-12 <= high <= 1
    assert high > low


def test_a_cluster_counts_as_one_observation():
    """Five copies of every example tell no more than one."""
    control, treated = np.ones(20), np.repeat([0.0, 1.0], [4, 16])
    alone = evidence_of(control, treated, np.arange(20))
    copies = evidence_of(np.repeat(control, 5), np.repeat(treated, 5), np.repeat(np.arange(20), 5))
    assert interval(copies, 0.05) == pytest.approx(interval(alone, 0.05), abs=1e-3)


@given(counts(), st.floats(0.01, 0.5), st.sampled_from([0.1, 0.05, 0.002]))
def test_p_values_and_interval_never_disagree(pairs, margin, alpha):
    low, high = interval(pairs, alpha)
    close = 1e-6
    if abs(low + margin) > close:
        assert (low > -margin) == (p_holds(pairs, margin) < alpha / 2)
    if abs(high + margin) > close:
        assert (high < -margin) == (p_breaks(pairs, margin) < alpha / 2)
