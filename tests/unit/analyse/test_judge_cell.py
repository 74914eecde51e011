"""One cell: what its verdict may and may not depend on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.evidence import TOLERANCE

RULES = {"margin": 0.10, "alpha": 0.05}


@st.composite
def cells(draw):
    """(control, treated, clusters): right or wrong, or continuous; single or shared contexts."""
    score = draw(st.sampled_from([st.sampled_from([0.0, 1.0]), st.floats(0, 1)]))
    rows = draw(st.lists(st.tuples(score, score, st.integers(0, 8)), min_size=1, max_size=40))
    control, treated, clusters = (np.array(column) for column in zip(*rows, strict=True))
    return control, treated, clusters if draw(st.booleans()) else np.arange(len(rows))


@settings(max_examples=40)
@given(cells(), st.randoms(use_true_random=False))
def test_order_of_rows_changes_nothing(cell, random):
    order = list(range(len(cell[0])))
    random.shuffle(order)
    shuffled = judge_cell(*(column[order] for column in cell), **RULES)
    whole = judge_cell(*cell, **RULES)
    assert (shuffled.verdict, shuffled.method) == (whole.verdict, whole.method)
    assert [shuffled.ci_low, shuffled.ci_high] == pytest.approx([whole.ci_low, whole.ci_high])


@settings(max_examples=40)
@given(cells())
def test_names_of_clusters_change_nothing(cell):
    control, treated, clusters = cell
    for renamed in (clusters * 7 - 100, np.array([f"context {-c}" for c in clusters])):
        again, whole = (judge_cell(control, treated, c, **RULES) for c in (renamed, clusters))
        assert again.verdict == whole.verdict
        assert [again.ci_low, again.ci_high] == pytest.approx([whole.ci_low, whole.ci_high])


@settings(max_examples=40)
@given(cells())
def test_swapping_control_and_treated_mirrors_the_interval(cell):
    control, treated, clusters = cell
    one, other = (
        judge_cell(control, treated, clusters, **RULES),
        judge_cell(treated, control, clusters, **RULES),
    )
    mirrored = pytest.approx([-other.ci_high, -other.ci_low], abs=TOLERANCE)
    assert [one.ci_low, one.ci_high] == mirrored, "to the precision of a limit"
    assert (one.losses, one.gains) == (other.gains, other.losses)


@settings(max_examples=40)
@given(cells())
def test_no_interval_has_width_zero_and_each_holds_its_estimate(cell):
    result = judge_cell(*cell, **RULES)
    assert -1 <= result.ci_low < result.ci_high <= 1
    assert result.ci_low <= result.delta <= result.ci_high
    expected = "undetermined"
    if result.ci_low > -0.10 + 1e-9:
        expected = "holds"
    if result.ci_high < -0.10 - 1e-9:
        expected = "breaks"
    assert result.verdict == expected


@settings(max_examples=40)
@given(cells(), st.floats(0, 0.99), st.sampled_from([0.5, 0.05, 1e-6]))
def test_any_margin_and_level_gives_a_verdict(cell, margin, alpha):
    result = judge_cell(*cell, margin=margin, alpha=alpha)
    assert result.verdict in {"holds", "breaks", "undetermined"}
    assert result.needed is None or (result.verdict == "undetermined" and result.needed > 0)


@pytest.mark.parametrize(
    ("n", "verdict"), [(1, "undetermined"), (35, "undetermined"), (36, "holds")]
)
def test_lossless_needs_36_pairs_to_hold_ten_points(n, verdict):
    result = judge_cell(np.ones(n), np.ones(n), np.arange(n), **RULES)
    assert result.verdict == verdict
    assert result.needed == (None if verdict == "holds" else 36 - n)


@pytest.mark.parametrize(
    ("n", "verdict"), [(1, "undetermined"), (6, "undetermined"), (7, "breaks")]
)
def test_all_lost(n, verdict):
    result = judge_cell(np.ones(n), np.zeros(n), np.arange(n), **RULES)
    assert (result.verdict, result.delta, result.ci_low) == (verdict, -1.0, -1.0)
    assert result.ci_high > -1
    assert result.retention == 0


def test_all_gained():
    result = judge_cell(np.zeros(13), np.ones(13), np.arange(13), **RULES)
    assert (result.verdict, result.ci_high, result.gains, result.retention) == (
        "holds",
        1.0,
        13,
        None,
    )


def test_nothing_is_not_measured():
    result = judge_cell([], [], [], **RULES)
    assert (result.verdict, result.n, result.ci_low) == ("not-measured", 0, None)
    assert "no pair" in result.reason


@pytest.mark.parametrize("score", [float("nan"), -0.1, 1.5, 88.0])
def test_scores_outside_their_range_are_refused(score):
    with pytest.raises(ValueError, match=r"numbers in \[0, 1\]"):
        judge_cell([1.0, score], [1.0, 1.0], [0, 1], **RULES)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        judge_cell([1.0, 1.0], [1.0], [0, 1], **RULES)


def test_methods_fit_the_data():
    def method(control, treated, clusters):
        return judge_cell(control, treated, clusters, **RULES).method

    assert method([1, 0, 1], [1, 1, 0], [0, 1, 2]).startswith("score")
    assert method([1, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 1]).endswith("contexts")
    assert method([1, 0, 1], [1, 1, 0], [0, 1, 1]).startswith("bounded")
    assert method([1, 0, 1], [1, 0.5, 0], [0, 1, 2]).startswith("bounded")


def test_shared_contexts_widen_the_interval():
    control, treated = np.ones(100), np.repeat([0.0, 1.0], [15, 85])
    apart = judge_cell(control, treated, np.arange(100), **RULES)
    together = judge_cell(control, treated, np.arange(100) // 5, **RULES)
    assert together.clusters == 20
    assert together.ci_high - together.ci_low > 1.5 * (apart.ci_high - apart.ci_low)


def test_a_rare_catastrophe_among_small_jitter_is_admitted():
    """A studentised bootstrap gives a width of 0.01 here; a tenth of such runs would be lost."""
    random = np.random.default_rng(1)
    control = random.uniform(0.4, 0.6, 24)
    result = judge_cell(control, control + random.uniform(-0.01, 0.01, 24), np.arange(24), **RULES)
    assert result.ci_low < -0.10
    assert result.verdict == "undetermined"


def test_needed_examples_decide_as_often_as_promised():
    random = np.random.default_rng(5)
    first = judge_cell(np.ones(20), np.repeat([0.0, 1.0], [1, 19]), np.arange(20), **RULES)
    n = 20 + first.needed
    verdicts = [
        judge_cell(np.ones(n), (random.random(n) > 0.05) * 1.0, np.arange(n), **RULES).verdict
        for _ in range(300)
    ]
    assert 0.70 <= verdicts.count("holds") / 300 <= 0.95


def test_a_worker_needs_neither_pandas_nor_the_rest_of_scipy():
    code = (
        "import sys; from pytest_kvbench.analyse.cell import judge_cell;"
        "judge_cell([1, 1], [1, 0], [0, 1], margin=0.1, alpha=0.05);"
        "big = {'pandas', 'scipy.stats', 'scipy.optimize', 'torch'}; print(big & set(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "set()"
