"""Brackets, the drop rule, the monotone fit and the shape of a budget curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.analyse.judge import judge_cells
from pytest_kvbench.analyse.ladder import CellPairs, ladder_of
from pytest_kvbench.analyse.monotone import NEVER, crossing, isotonic
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.transitions import bracket
from pytest_kvbench.cellkey import ALL_BINS, CellKey

BUDGETS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
RULES = Rules(margin=0.10, alpha=0.05)


def words(text):
    """One letter a budget, from the largest: h(olds), b(reaks), u(ndetermined), n(ot measured)."""
    named = {"h": "holds", "b": "breaks", "u": "undetermined", "n": "not-measured"}
    return list(zip(BUDGETS, (named[letter] for letter in reversed(text)), strict=True))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("hhhbbb", (0.35, 0.5)),
        ("hhuubb", (0.2, 0.7)),
        ("hhhhhh", (None, 0.1)),
        ("bbbbbb", (0.9, None)),
        ("uuuuuu", (None, None)),
        ("huhbbb", (0.35, 0.9)),  # a `holds` below an undetermined cell is not reached
        ("hhbhbb", (0.2, 0.7)),  # nor is a `breaks` above a cell that holds
        ("hnhbnb", (0.1, 0.9)),  # what was not measured ends a walk
    ],
)
def test_bracket_walks_from_both_ends(verdicts, expected):
    assert bracket(words(verdicts)) == expected


@given(st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=1, max_size=5))
def test_isotonic_is_the_closest_monotone_curve(curves):
    curves = np.array(curves)
    fits = isotonic(curves)
    assert (np.diff(fits, axis=1) >= -1e-12).all()
    assert fits.sum(axis=1) == pytest.approx(curves.sum(axis=1), abs=1e-9)
    distance = ((fits - curves) ** 2).sum(axis=1)
    others = np.sort(np.random.default_rng(0).uniform(-1, 1, (200, 4)), axis=1)
    for other in others:
        assert (distance <= ((other - curves) ** 2).sum(axis=1) + 1e-12).all()


def test_crossing_interpolates_in_log_budget():
    fits = np.array([[-0.3, -0.1, 0.0], [-0.05, 0.0, 0.0], [-0.9, -0.8, -0.3], [-0.3, 0.1, 0.1]])
    found = crossing(fits, np.array([0.1, 0.2, 0.4]), 0.2)
    assert found[0] == pytest.approx(0.1 * 2**0.5)
    assert found[1] == NEVER
    assert found[2] == pytest.approx(0.4 ** (1 - 1 / 3))  # between 0.4 and the control at 1
    assert found[3] == pytest.approx(0.1 * 2**0.25)


def cells_of(losses, n=100, bins=1, seed=0, score=1.0):
    """Pairs where an example lost at a budget is lost below it too; a few flip at random."""
    random, cells = np.random.default_rng(seed), {}
    for bin_ in range(bins):
        endurance = random.random(n)
        for budget, loss in zip(BUDGETS, losses, strict=True):
            kept = (endurance >= loss) & (random.random(n) > 0.02)
            ids = np.arange(n)
            pairs = CellPairs(np.full(n, score), score * kept, ids, ids)
            cells[CellKey("t", bin_, "", "p", budget)] = pairs
    return cells


def rows_of(cells, rules=RULES, excluded=None):
    return judge_cells(cells, excluded or {}, rules).transitions


CLIFF = (0.6, 0.6, 0.6, 0.0, 0.0, 0.0)
SLOPE = (0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
FLAT = (0.0,) * 6


def test_a_planted_cliff_is_found():
    (row, _) = rows_of(cells_of(CLIFF))
    assert (row["b_broken"], row["b_safe"], row["shape"]) == (0.35, 0.5, "cliff")
    assert row["rule_budget"] == 0.35
    low, high = row["estimate_ci"]
    assert 0.2 < low < row["estimate"] < high < 0.55


def test_a_slope_is_no_cliff():
    row = rows_of(cells_of(SLOPE, n=200))[0]
    assert row["shape"] == "slope"
    assert row["b_broken"] < 0.7 <= row["b_safe"]


@pytest.mark.parametrize("losses", [CLIFF, SLOPE])
def test_two_budgets_have_no_shape(losses):
    """Whatever the curve, one step of two has most of the drop."""
    cells = {k: p for k, p in cells_of(losses, n=200).items() if k.budget in (0.1, 0.9)}
    row = rows_of(cells)[0]
    assert (row["b_broken"], row["b_safe"], row["shape"]) == (0.1, 0.9, "undetermined")


def test_a_cliff_is_not_seen_across_a_budget_that_was_not_measured():
    cells = cells_of(CLIFF)
    rungs = {"between": 0.35, "aside": 0.7}
    shapes = {
        where: rows_of(cells, excluded={CellKey("t", 0, "", "p", rung): "lost"})[0]["shape"]
        for where, rung in rungs.items()
    }
    assert shapes == {"between": "undetermined", "aside": "cliff"}


def test_an_estimate_names_the_measured_budgets_that_it_lies_between():
    cells = cells_of(CLIFF)
    row = rows_of(cells)[0]
    assert row["estimate_between"] == [0.35, 0.5]
    missing = {CellKey("t", 0, "", "p", budget): "lost" for budget in (0.35, 0.5)}
    assert rows_of(cells, excluded=missing)[0]["estimate_between"] == [0.2, 0.7]
    lossy = rows_of(cells_of((0.9,) * 6))[0]
    assert lossy["estimate_between"] == [0.9, 1.0]
    assert rows_of(cells_of(FLAT, n=200))[0]["estimate_between"] is None


@pytest.mark.parametrize("losses", [CLIFF, SLOPE])
@pytest.mark.parametrize("rungs", [BUDGETS, (0.1, 0.9), (0.1, 0.35, 0.9)])
def test_an_interval_is_never_finer_than_the_ladder(losses, rungs):
    cells = {k: p for k, p in cells_of(losses).items() if k.budget in rungs}
    for row in rows_of(cells):
        low, high = row["estimate_ci"]
        under, over = row["estimate_between"]
        assert {low, high} <= {None, *rungs, 1.0}
        assert (low or 0) <= under < over <= high


def test_the_walk_over_corrected_verdicts_stands_beside_the_ladders_own():
    cells = cells_of(CLIFF, n=38)
    alone, _ = rows_of(cells, Rules(0.10, 0.05, correction="none"))
    assert (alone["b_safe_adjusted"], alone["b_safe"]) == (alone["b_safe"], alone["b_safe"])
    row, _ = rows_of(cells, Rules(0.10, 0.05, planned_cells=200))
    assert row["b_safe"] == alone["b_safe"] is not None
    assert row["b_safe_adjusted"] is None
    assert row["shape"] == "undetermined"


def test_flat_has_a_safe_end_only():
    row = rows_of(cells_of(FLAT, n=200))[0]
    assert (row["b_broken"], row["b_safe"], row["shape"]) == (None, 0.1, "flat")
    assert row["estimate"] is None
    assert row["rule_budget"] is None


def test_few_examples_are_undetermined():
    row = rows_of(cells_of(FLAT, n=8))[0]
    assert (row["b_broken"], row["b_safe"], row["shape"]) == (None, None, "undetermined")
    low, high = row["estimate_ci"]
    assert low is None
    assert high > 0.1  # eight clean examples do not exclude a transition


def test_less_cache_that_is_better_is_called_non_monotone():
    row = rows_of(cells_of((0.0, 0.0, 0.5, 0.0, 0.0, 0.0)))[0]
    assert row["shape"] == "non-monotone"


def test_noise_is_not_called_non_monotone():
    shapes = [rows_of(cells_of(FLAT, n=60, seed=seed))[0]["shape"] for seed in range(20)]
    assert shapes.count("non-monotone") <= 1


def test_pooled_bins_find_what_one_bin_cannot():
    *bins, pooled = rows_of(cells_of(CLIFF, n=28, bins=5))
    assert pooled["bin"] == ALL_BINS
    assert (pooled["b_broken"], pooled["b_safe"]) == (0.35, 0.5)
    assert all(row["b_safe"] is None for row in bins)
    widths = [row["estimate_ci"][1] - (row["estimate_ci"][0] or 0) for row in (*bins, pooled)]
    assert widths[-1] < min(widths[:-1])


def test_continuous_scores_have_transitions_too():
    row = rows_of(cells_of(CLIFF, score=0.8))[0]
    assert (row["b_broken"], row["b_safe"], row["shape"]) == (0.35, 0.5, "cliff")


def test_a_cell_not_measured_ends_the_walk_and_leaves_the_fit():
    cells = cells_of(CLIFF)
    missing = CellKey("t", 0, "", "p", 0.7)
    row = rows_of(cells, excluded={missing: "lost"})[0]
    assert (row["b_broken"], row["b_safe"]) == (0.35, 0.9)
    assert row["estimate"] is not None


def test_a_ladder_without_any_measured_cell_says_nothing():
    cells = cells_of(FLAT, n=5)
    for row in rows_of(cells, excluded=dict.fromkeys(cells, "lost")):
        assert (row["b_safe"], row["estimate"], row["shape"]) == (None, None, "undetermined")


def test_bins_without_a_common_budget_have_no_pooled_fit():
    cells = cells_of(CLIFF, n=30, bins=2)
    lost = {key: "lost" for key in cells if (key.budget < 0.4) == (key.bin == 0)}
    pooled = rows_of(cells, excluded=lost)[-1]
    assert (pooled["estimate"], pooled["shape"]) == (None, "undetermined")


def test_budget_one_is_no_rung():
    cells = cells_of(CLIFF)
    cells[CellKey("t", 0, "", "p", 1.0)] = cells[CellKey("t", 0, "", "p", 0.1)]
    assert rows_of(cells)[0]["b_safe"] == 0.5


def test_a_seed_repeats_itself_and_ids_do_not_matter():
    cells = cells_of(SLOPE, n=40)
    renamed = {
        key: CellPairs(p.control[::-1], p.treated[::-1], p.clusters[::-1] + 7, p.examples[::-1] + 7)
        for key, p in cells.items()
    }
    assert rows_of(cells) == rows_of(cells)
    first, again = rows_of(cells)[0], rows_of(renamed)[0]
    assert again["estimate_ci"] == pytest.approx(first["estimate_ci"])
    other = rows_of(cells, Rules(0.10, 0.05, seed=1))[0]
    assert other["estimate"] == first["estimate"]


def test_resampling_keeps_an_example_with_all_its_budgets():
    """Two budgets with the same answers move together in every replicate."""
    random, ids = np.random.default_rng(2), np.arange(30)
    pairs = CellPairs(np.ones(30), random.random(30), ids, ids)
    ladder = ladder_of([(0.2, pairs), (0.5, pairs)], seed=[0])
    assert ladder.low[:, 0] == pytest.approx(ladder.low[:, 1])
    assert ladder.low.std(axis=0).min() > 0.02
    assert (ladder.low <= ladder.high).all()
