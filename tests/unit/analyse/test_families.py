"""Corrections for many cells, and the row over all bins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.cells import corrected_verdicts
from pytest_kvbench.analyse.judge import judge_cells
from pytest_kvbench.analyse.ladder import CellPairs
from pytest_kvbench.analyse.multiplicity import adjusted
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.cellkey import CellKey

P = [0.01, 0.04, 0.03, 0.005]
RULES = {"margin": 0.10, "alpha": 0.05}


def test_holm_and_bh_as_in_the_textbook():
    assert adjusted(P, 4, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted(P, 4, "bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjusted(P, 4, "bonferroni") == pytest.approx([0.04, 0.16, 0.12, 0.02])
    assert adjusted(P, 4, "none") == pytest.approx(P)


def test_cells_that_were_not_run_still_count():
    assert adjusted([0.01], 10, "holm") == pytest.approx([0.1])
    assert adjusted([0.01, 0.02], 10, "bh") == pytest.approx([0.1, 0.1])


@given(st.lists(st.floats(0, 1), max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_a_family_does_not_matter(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    for correction in ("holm", "bh", "bonferroni"):
        shuffled = adjusted([p[i] for i in order], len(p), correction)
        assert shuffled == pytest.approx([adjusted(p, len(p), correction)[i] for i in order])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_none_and_bonferroni(p):
    holm = np.array(adjusted(p, len(p), "holm"))
    assert (holm >= np.array(p) - 1e-15).all()
    assert (holm <= np.array(adjusted(p, len(p), "bonferroni")) + 1e-15).all()


def cell(n, losses):
    return judge_cell(np.ones(n), np.repeat([0.0, 1.0], [losses, n - losses]), range(n), **RULES)


def test_a_verdict_may_fall_with_the_size_of_the_plan():
    results = {"kept": cell(40, 0), "lost": cell(40, 39), "empty": judge_cell([], [], [], **RULES)}
    small = corrected_verdicts(results, 0, Rules(0.10, 0.05))
    assert small["lost"].item == "breaks"
    assert small["empty"].corrected == "not-measured"
    large = corrected_verdicts(results, 100, Rules(0.10, 0.05))
    assert results["kept"].verdict == "holds"
    assert (large["kept"].item, large["kept"].corrected) == ("undetermined", "undetermined")
    assert (large["lost"].item, large["lost"].corrected) == ("breaks", "breaks")


def test_holm_finds_what_bonferroni_misses():
    results = {**{f"sure {i}": cell(200, 0) for i in range(9)}, "last": cell(40, 0)}
    verdict = corrected_verdicts(results, 10, Rules(0.10, 0.05))["last"]
    assert (verdict.item, verdict.corrected) == ("undetermined", "holds")


def bin_of(n, losses, first=0):
    treated = np.repeat([0.0, 1.0], [losses, n - losses])
    return Pairs(np.ones(n), treated, np.arange(first, first + n))


def test_one_bin_is_judged_as_its_own_cell():
    assert judge_pooled([bin_of(40, 3)], **RULES) == cell(40, 3)


def test_bins_weigh_equally_whatever_their_size():
    result = judge_pooled([bin_of(90, 0), bin_of(10, 5)], **RULES)
    assert result.delta == pytest.approx(-0.25)
    assert result.treated_mean == pytest.approx(0.75)
    assert (result.n, result.clusters) == (100, 100)


def test_distance_between_bins_is_no_uncertainty():
    steep = judge_pooled([bin_of(50, 0), bin_of(50, 50)], **RULES)
    mixed = judge_pooled([bin_of(50, 25), bin_of(50, 25)], **RULES)
    assert steep.delta == mixed.delta == -0.5
    assert steep.ci_high - steep.ci_low < 0.55 * (mixed.ci_high - mixed.ci_low)
    assert steep.ci_low < -0.5 < steep.ci_high


def test_five_bins_hold_where_one_cannot():
    bins = [bin_of(20, 0) for _ in range(5)]
    assert judge_pooled(bins, **RULES).verdict == "holds"
    assert judge_pooled(bins[:1], **RULES).verdict == "undetermined"


def test_bins_of_one_example_are_pooled_without_strata():
    result = judge_pooled([bin_of(1, 1), bin_of(1, 0), bin_of(1, 0)], **RULES)
    assert result.delta == pytest.approx(-1 / 3)
    assert result.ci_high - result.ci_low > 0.5


def test_no_bin_is_not_measured():
    assert judge_pooled([], **RULES).verdict == "not-measured"


@pytest.mark.slow
def test_pooled_interval_covers_uneven_rare_losses():
    random, covered = np.random.default_rng(11), 0
    losses, sizes = (0.3, 0.0, 0.0, 0.0, 0.02), (10, 10, 20, 40, 60)
    for _ in range(50):
        bins = [bin_of(n, int(random.binomial(n, p))) for n, p in zip(sizes, losses, strict=True)]
        result = judge_pooled(bins, **RULES)
        covered += result.ci_low <= -np.mean(losses) <= result.ci_high
    assert covered >= 45


@pytest.mark.parametrize("size", [1, 4])
def test_intervals_for_many_rows_are_those_of_their_share_of_the_error(size):
    """Whatever the rule: contexts have one of their own."""
    rng = np.random.default_rng(9)
    control = (rng.random(40) < 0.9) * 1.0
    treated = np.where(rng.random(40) < 0.2, 0.0, control)
    pairs = Pairs(control, treated, np.arange(40) // size)
    row = judge_pooled([pairs], margin=0.1, alpha=0.05, family=9)
    assert [one["rows"] for one in row.together] == [9, 72, 576]
    for one in row.together:
        alone = judge_pooled([pairs], margin=0.1, alpha=0.05 / one["rows"])
        assert (one["ci_low"], one["ci_high"]) == (alone.ci_low, alone.ci_high)


def test_the_family_of_rows_over_bins_is_the_planned_one():
    """As that of cells: what was left out with `-k` is not forgotten."""
    rules = Rules(0.10, 0.05, planned_rows=50)
    pairs = CellPairs(np.ones(60), np.ones(60), np.arange(60), np.arange(60))
    key = CellKey("t", 0, "", "p", 0.5)
    few, many = (judge_cells({key: pairs}, {}, r) for r in (replace(rules, planned_rows=1), rules))
    assert few.rows[key.pooled]["verdict_holm"] == "holds"
    assert many.rows[key.pooled]["verdict_holm"] == "undetermined"
    wide, narrow = (of.rows[key.pooled]["together"][0] for of in (many, few))
    assert (wide["rows"], narrow["rows"]) == (50, 1)
    assert wide["ci_low"] < narrow["ci_low"]
