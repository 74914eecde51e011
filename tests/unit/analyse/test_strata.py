"""The row over bins of any size: exact where it can be, and never surer than its smallest bin."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.analyse.binary import BinaryPairs
from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.evidence import p_breaks, p_holds
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.strata import StratifiedPairs

RULES = {"margin": 0.10, "alpha": 0.05}


@st.composite
def counts(draw, most=30):
    n = draw(st.integers(1, most))
    losses = draw(st.integers(0, n))
    return BinaryPairs(losses, draw(st.integers(0, n - losses)), n)


@given(counts(), st.floats(-0.95, 0.95))
def test_one_stratum_is_the_rule_for_one_cell(pairs, delta):
    alone = StratifiedPairs.of([pairs])
    assert alone.p_above(delta) == pytest.approx(pairs.p_above(delta), abs=1e-4)


@given(st.lists(counts(), min_size=2, max_size=5), st.floats(-0.95, 0.95))
def test_restricted_rates_are_rates_with_the_mean_that_is_tested(bins, delta):
    evidence = StratifiedPairs.of(bins)
    losses, gains = evidence.restricted_rates(delta)
    shares = np.array(evidence.shares) / sum(evidence.shares)
    assert float(shares @ (gains - losses)) == pytest.approx(delta, abs=1e-4)
    assert min(losses.min(), gains.min()) >= 0
    assert (losses + gains).max() <= 1 + 1e-4


@settings(max_examples=25)  # 19 p-values each
@given(st.lists(counts(), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_p_rises_with_the_hypothesis_and_does_not_depend_on_the_order_of_bins(bins, random):
    evidence = StratifiedPairs.of(bins)
    p = [evidence.p_above(delta) for delta in np.linspace(-0.9, 0.9, 19)]
    assert np.diff(p).min() > -1e-2
    shuffled = StratifiedPairs.of(random.sample(bins, len(bins)))
    assert shuffled.p_above(0.1) == pytest.approx(evidence.p_above(0.1), abs=1e-4)


@given(st.lists(counts(), min_size=2, max_size=4), st.floats(-0.9, 0.9))
def test_swapping_the_arms_mirrors_the_tail(bins, delta):
    """What is as extreme one way and the other adds up to 1 and what was seen, counted twice."""
    evidence = StratifiedPairs.of(bins)
    swapped = StratifiedPairs.of([b.mirrored() for b in bins])
    assert swapped.p_above(delta) == pytest.approx(evidence.mirrored().p_above(delta), abs=1e-4)
    assert evidence.p_above(delta) + evidence.mirrored().p_above(-delta) >= 1 - 1e-3


def binary(n, losses, contexts=None, first=0):
    treated = np.repeat([0.0, 1.0], [losses, n - losses])
    return Pairs(np.ones(n), treated, first + np.arange(n) // (n // (contexts or n)))


def chance_of(word, sizes, losses, most):
    """Of a false verdict: every outcome of bins whose other bins lose nothing, weighted exactly."""
    lossy = [i for i, loss in enumerate(losses) if loss]
    total = 0.0
    for lost in itertools.product(*(range(min(sizes[i], most) + 1) for i in lossy)):
        chance = math.prod(
            math.comb(sizes[i], k) * losses[i] ** k * (1 - losses[i]) ** (sizes[i] - k)
            for i, k in zip(lossy, lost, strict=True)
        )
        found = dict(zip(lossy, lost, strict=True))
        bins = [BinaryPairs(found.get(i, 0), 0, n) for i, n in enumerate(sizes)]
        p = {"holds": p_holds, "breaks": p_breaks}[word](StratifiedPairs.of(bins), 0.10)
        total += chance * (p < 0.025)
    return total


@pytest.mark.parametrize("word", ["holds", "breaks"])
@pytest.mark.parametrize(
    ("sizes", "losses"),
    [
        ((50, 50, 50, 50, 2), (0, 0, 0, 0, 0.5)),
        ((60, 30, 4), (0, 0, 0.3)),
        ((60, 30, 4), (0, 0.1, 0.2)),
        ((20,) * 5, (0, 0, 0, 0, 0.5)),
        ((5,) * 5, (0, 0, 0, 0.25, 0.25)),
    ],
)
def test_bins_of_any_size_that_lose_the_margin_are_seldom_judged(word, sizes, losses):
    """No simulation. The bounded mean with a typical unseen example: .25, .25 and .11, .24."""
    assert chance_of(word, sizes, losses, 30) <= 0.027


def test_bins_of_few_pairs_break_as_the_score_test_does():
    """Eight of 25 lost over five bins are enough, where the bounded mean left it undetermined."""
    bins = [binary(5, lost, first=10 * b) for b, lost in enumerate([1, 1, 2, 2, 2])]
    result = judge_pooled(bins, **RULES)
    assert (result.verdict, result.n) == ("breaks", 25)
    lossless = judge_pooled([binary(8, 0, first=10 * b) for b in range(5)], **RULES)
    assert lossless.verdict == "holds"


@pytest.mark.parametrize("contexts", [1, 2])
def test_one_bin_of_few_contexts_holds_back_the_row(contexts):
    """If it loses a context of two in two, the margin is lost: seen in 3 of 4 runs only."""
    singles = [binary(40, 0, first=100 * b) for b in range(4)]
    for losses in (0, 40):
        heavy = binary(40, losses, contexts, first=900)
        assert judge_pooled([*singles, heavy], **RULES).verdict == "undetermined"


def test_a_heavy_context_among_single_ones_holds_back_a_cell():
    """Forty single examples and one context of twenty, nothing lost."""
    clusters = np.r_[np.arange(40), np.full(20, 99)]
    result = judge_cell(np.ones(60), np.ones(60), clusters, **RULES)
    assert result.verdict == "undetermined"


@pytest.mark.parametrize("whole", [False, True])
def test_contexts_that_lose_with_their_size_do_not_hold(whole):
    """Contexts of 1 to 10 examples, the larger the more is lost; the loss is the margin."""
    random, held = np.random.default_rng(4), 0
    slope = 0.10 * 55 / 385
    for _ in range(200):
        sizes = random.integers(1, 11, 40)
        clusters = np.repeat(np.arange(40), sizes)
        draw = random.random(40)[clusters] if whole else random.random(len(clusters))
        treated = (draw >= slope * sizes[clusters]) * 1.0
        held += judge_cell(np.ones(len(draw)), treated, clusters, **RULES).verdict == "holds"
    assert held <= 10  # 5 expected of a rule at its level
