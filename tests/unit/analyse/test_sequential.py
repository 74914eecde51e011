"""Sampling in rounds: valid whenever it stops, decided by the ordered pairs alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.analyse.betting import FRACTIONS, HEDGE, WEIGHTS, StratifiedBetting, betting_of
from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.evidence import interval, p_breaks, p_holds
from pytest_kvbench.analyse.multiplicity import fallback
from pytest_kvbench.analyse.sequential import (
    Drawn,
    Limits,
    Rung,
    advance,
    drawing_order,
    group_verdicts,
    start,
)

LIMITS = Limits(margin=0.10, alpha=0.05, least=8, most=200)
SCORES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=40)


def evidence(differences, clusters=None):
    codes = np.arange(len(differences)) if clusters is None else clusters
    return betting_of(np.array(differences, dtype=float), np.unique(codes, return_inverse=True)[1])


# -- evidence ------------------------------------------------------------------------------------


@given(SCORES, st.floats(-0.9, 0.9))
def test_wealth_is_that_of_the_bets_one_after_another(differences, delta):
    wealth = np.ones_like(FRACTIONS)
    for x in differences:
        wealth *= 1 + FRACTIONS * (x - delta) / (1 + delta)
    expected = min(1.0, 1 / float(WEIGHTS @ wealth))
    assert evidence(differences).p_above(delta) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(SCORES)
def test_p_rises_with_the_hypothesis_and_the_estimate_is_never_rejected(differences):
    found = evidence(differences)
    p = [found.p_above(delta) for delta in np.linspace(-0.99, 0.99, 40)]
    assert np.diff(p).min() >= -1e-12
    if abs(found.estimate) < 1:
        assert found.p_above(found.estimate) == pytest.approx(1)


@given(SCORES, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(differences, random):
    shuffled = random.sample(differences, len(differences))
    assert evidence(shuffled).p_above(-0.1) == evidence(differences).p_above(-0.1)


@given(SCORES)
def test_swapping_the_arms_mirrors_the_interval(differences):
    low, high = interval(evidence(differences), 0.05)
    back_low, back_high = interval(evidence([-x for x in differences]), 0.05)
    assert (back_low, back_high) == pytest.approx((-high, -low), abs=1e-6)
    assert low < high


def test_a_fair_game_cannot_be_won_on_average():
    """The mean wealth over all outcomes of 6 pairs with a true difference of -0.1 is 1."""
    chances = {-1.0: 0.2, 0.0: 0.7, 1.0: 0.1}
    outcomes = np.array(np.meshgrid(*[list(chances)] * 6)).reshape(6, -1).T
    weights = np.prod(np.vectorize(chances.get)(outcomes), axis=1)
    wealth = [np.exp(evidence(row).log_wealth(-0.1)) for row in outcomes]
    assert float(weights @ wealth) == pytest.approx(1, rel=1e-9)


def test_a_context_counts_once():
    alone = evidence(np.zeros(60)).p_above(-0.1)
    shared = evidence(np.zeros(60), np.arange(60) // 5).p_above(-0.1)
    assert shared == pytest.approx(evidence(np.zeros(12)).p_above(-0.1))
    assert alone < 0.01 < shared


def test_bins_pool_to_what_no_bin_could_say():
    bins = [evidence(np.zeros(20)) for _ in range(5)]
    pooled = StratifiedBetting(bins)
    assert p_holds(bins[0], 0.10) > 0.1
    assert p_holds(pooled, 0.10) < 0.01
    assert p_breaks(pooled, 0.10) == 1.0
    low, high = interval(pooled, 0.05)
    assert low < pooled.estimate < high


@pytest.mark.parametrize("loss", [-1.0, 1.0])
@pytest.mark.parametrize("bins", [2, 3, 5])
def test_bins_that_lose_everything_have_an_interval(loss, bins):
    pooled = StratifiedBetting([evidence(np.full(12, loss))] * bins)
    low, high = interval(pooled, 0.05)
    assert -1 <= low < high <= 1
    assert low <= loss <= high
    assert pooled.p_above(1.0) == pooled.mirrored().p_above(1.0) == 1.0
    breaks = p_breaks(pooled, 0.10)
    assert breaks < 0.01 if loss < 0 else breaks == 1.0


@settings(max_examples=10)
@given(
    st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=2, max_size=9), min_size=2, max_size=3
    )
)
def test_pooled_bins_are_never_surer_than_the_truth_allows(bins):
    """No hedged wealth at any differences of the bins is below what is claimed of their mean."""
    strata = [evidence(b) for b in bins]
    pooled = StratifiedBetting(strata)
    random = np.random.default_rng(0)
    for _ in range(20):
        deltas = random.uniform(-0.95, 0.95, len(strata))
        wealth = WEIGHTS.copy()
        for stratum, delta in zip(strata, deltas, strict=True):
            up = stratum.log_wealth_of_fractions(np.array([delta]))[0]
            down = stratum.mirrored().log_wealth_of_fractions(np.array([-delta]))[0]
            wealth *= (1 - HEDGE) * np.exp(up) + HEDGE * np.exp(down)
        assert pooled.p_above(float(deltas.mean())) >= min(1.0, 1 / wealth.sum()) - 1e-9


def test_judge_cell_names_the_method():
    result = judge_cell(np.ones(80), np.ones(80), range(80), margin=0.1, alpha=0.05, anytime=True)
    assert (result.verdict, result.method) == ("holds", "betting, anytime-valid")
    few = judge_cell(np.ones(20), np.ones(20), range(20), margin=0.1, alpha=0.05, anytime=True)
    assert few.verdict == "undetermined"
    assert 15 < few.needed < 60


# -- ladders -------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.05))
def test_a_ladder_spends_no_more_than_its_cells_bring(p, alpha):
    """Whatever is true: the levels of hypotheses that are not rejected add up to the whole."""
    levels = fallback(p, alpha)
    kept = [level for level, value in zip(levels, p, strict=True) if value >= level / 2]
    assert not kept or sum(kept) == pytest.approx(len(p) * alpha)
    assert min(levels) >= alpha / 2


def test_what_a_ladder_hands_on():
    assert fallback([1, 1, 1, 1], 0.01) == pytest.approx([0.025, 0.005, 0.005, 0.005])
    assert fallback([0, 1, 1, 1], 0.01) == pytest.approx([0.025, 0.03, 0.005, 0.005])
    assert fallback([1, 1, 1, 0], 0.01) == pytest.approx([0.03, 0.005, 0.005, 0.005])
    assert fallback([0, 1, 0, 0], 0.01)[1] == pytest.approx(0.04)
    assert fallback([0.02], 0.05) == [0.05]


def test_a_decided_cell_helps_its_neighbour():
    sure, close = (1e-9, 1.0), (0.02, 1.0)
    alone = group_verdicts({Rung("p", 0.5): close, Rung("p", 0.9): (1.0, 1.0)}, 0.025)
    helped = group_verdicts({Rung("p", 0.5): close, Rung("p", 0.9): sure}, 0.025)
    other = group_verdicts({Rung("p", 0.5): close, Rung("q", 0.9): sure}, 0.02)
    words = [verdicts[Rung("p", 0.5)][0] for verdicts in (alone, helped, other)]
    assert words == ["undetermined", "holds", "undetermined"]


# -- rounds --------------------------------------------------------------------------------------


def group(losses, n=200, seed=0, clusters=None):
    random = np.random.default_rng(seed)
    differences = {
        Rung("p", budget): -(random.random(n) < loss).astype(float)
        for budget, loss in losses.items()
    }
    return Drawn(np.arange(n) if clusters is None else clusters, differences)


def sampled(drawn, limits=LIMITS):
    return advance(start(list(drawn.differences), drawn.clusters, limits), drawn, limits)


CLIFF = {0.1: 0.9, 0.2: 0.9, 0.5: 0.1, 0.9: 0.0}


def test_few_examples_far_from_the_transition_and_many_near_it():
    done = sampled(group(CLIFF))
    words = {rung.budget: s.verdict for rung, s in done.cells.items()}
    drawn = {rung.budget: s.n for rung, s in done.cells.items()}
    assert words == {0.1: "breaks", 0.2: "breaks", 0.5: "undetermined", 0.9: "holds"}
    assert max(drawn[0.1], drawn[0.2]) < 20 < drawn[0.9] < 70 < drawn[0.5]
    assert max(done.wanted(rung) for rung in done.cells) == drawn[0.5]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 200), max_size=12))
@settings(max_examples=10)
def test_where_a_group_stands_does_not_depend_on_how_its_answers_came(seed, arrivals):
    drawn = group({0.1: 0.5, 0.2: 0.2, 0.5: 0.1, 0.9: 0.02}, seed=seed)
    progress = start(list(drawn.differences), drawn.clusters, LIMITS)
    for known in [*sorted(arrivals), 200]:
        so_far = {rung: d[:known] for rung, d in drawn.differences.items()}
        progress = advance(progress, Drawn(drawn.clusters, so_far), LIMITS)
    assert progress == sampled(drawn)


def test_only_what_is_wanted_is_looked_at():
    """Answers beyond a cell's last round may be anything."""
    drawn = group(CLIFF)
    done = sampled(drawn)
    for rung, standing in done.cells.items():
        drawn.differences[rung][standing.n :] = 1.0
    assert sampled(drawn) == done


def test_contexts_stay_whole():
    clusters = np.repeat(np.arange(40), 5)
    drawn = group({0.5: 0.05}, clusters=clusters)
    progress = start(list(drawn.differences), clusters, LIMITS)
    assert progress.n == 10
    assert sampled(drawn).cells[Rung("p", 0.5)].n % 5 == 0
    assert drawing_order(["a", "b", "a", "c", "b"]) == [0, 2, 1, 4, 3]


def test_lost_pairs_count_as_losses_for_holds_and_not_for_breaks():
    drawn = group({0.5: 0.0})
    drawn.differences[Rung("p", 0.5)][:3] = np.nan
    (standing,) = sampled(drawn).cells.values()
    (clean,) = sampled(group({0.5: 0.0})).cells.values()
    assert (standing.verdict, clean.verdict) == ("holds", "holds")
    assert standing.n > clean.n + 3
    drawn.differences[Rung("p", 0.5)][:20] = np.nan
    assert sampled(drawn).cells[Rung("p", 0.5)].verdict != "holds"
    nothing = Drawn(drawn.clusters, {Rung("p", 0.5): np.full(200, np.nan)})
    assert sampled(nothing).cells[Rung("p", 0.5)].state == "all drawn"


def test_a_group_without_treated_cells_wants_the_first_round():
    progress = start([], np.arange(50), LIMITS)
    assert (progress.is_open, progress.n) == (False, 8)


def test_an_item_and_the_analysis_agree():
    drawn = group(CLIFF)
    for rung, standing in sampled(drawn).cells.items():
        differences = drawn.differences[rung][: standing.n]
        result = judge_cell(
            np.ones(standing.n),
            1 + differences,
            drawn.clusters[: standing.n],
            margin=0.10,
            alpha=standing.alpha,
            anytime=True,
        )
        assert result.verdict == standing.verdict


def test_looking_after_every_round_keeps_the_error():
    """A true loss of exactly the margin: at most 5% of ladders hold or break anywhere."""
    wrong = 0
    for seed in range(60):
        losses = dict.fromkeys((0.1, 0.3, 0.5), 0.10)
        done = sampled(group(losses, n=120, seed=seed), Limits(0.10, 0.05 / 3, 4, 120))
        wrong += any(s.verdict != "undetermined" for s in done.cells.values())
    assert wrong <= 8  # 3 expected
