from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example
from pytest_kvbench.selection import Bin
from pytest_kvbench.tasks.binning import (
    BinSpec,
    Candidate,
    bin_of,
    empty_bins,
    quantile_edges,
    select,
    size_of,
)

sizes = st.lists(st.integers(0, 500), max_size=60)


def entry(i: int, index: int) -> Candidate:
    return Candidate(Example(f"id{i}", "q", "c", ("a",)), index, 10)


@given(sizes, st.integers(1, 8))
def test_data_bins_cover_every_size_once(values, n):
    bins = BinSpec(n, (1,)).data_bins(values)
    assert [b.index for b in bins] == list(range(n))
    assert (bins[0].low, bins[-1].high) == (None, None)
    assert all(a.high == b.low for a, b in itertools.pairwise(bins))
    for value in values:
        holding = [
            b.index
            for b in bins
            if (b.low is None or b.low <= value) and (b.high is None or value < b.high)
        ]
        assert holding == [bin_of(bins, value)]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=80, unique=True), st.integers(1, 6))
def test_quantile_bins_of_distinct_sizes_are_near_equal(values, n):
    bins = BinSpec(n, (1,)).data_bins(values)
    counts = [sum(bin_of(bins, v) == b.index for v in values) for b in bins]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 8))
def test_a_bin_is_empty_only_where_lengths_are_too_few_and_that_is_said(values, n):
    bins = BinSpec(n, (1,)).data_bins(values)
    empty = [b.index for b in bins if b.index not in {bin_of(bins, v) for v in values}]
    different = len(set(values))
    assert len(empty) == (max(0, n - different) if values else n)
    assert bool(empty and values) == bool(empty_bins(values, n))
    assert empty == list(range(len(empty)))  # as the words say


def test_why_bins_are_empty():
    assert empty_bins([512] * 30 + [700] * 10, 4) == (
        "bins 0 to 1 are empty: 40 examples have only 2 different lengths (30 are 512 long), and "
        "4 bins were asked for. Use bins.n: 2, bins.edges, or more varied data"
    )


def test_ties_at_a_quantile_move_the_edges_apart():
    assert quantile_edges([7] * 8 + [8, 9], 3) == (8, 9)
    assert quantile_edges([5, 6] + [7] * 8, 3) == (6, 7)
    assert quantile_edges([1, 7, 7, 7, 7, 7, 7, 7, 8], 3) == (7, 8)


def test_equal_sizes_make_empty_bins_not_errors():
    bins = BinSpec(3, (1,)).data_bins([7, 7, 7])
    assert [bin_of(bins, 7)] == [2]
    assert quantile_edges([], 4) == (1, 2, 3)


@given(st.integers(1, 9), st.integers(1, 400), st.integers(10, 4000))
def test_generated_bins_split_the_range_without_gap(n, low, width):
    bins = BinSpec(n, (1,), range=(low, low + width)).generated_bins()
    assert (bins[0].low, bins[-1].high) == (low, low + width)
    assert all(a.high == b.low for a, b in itertools.pairwise(bins))
    widths = [b.high - b.low for b in bins]
    assert max(widths) - min(widths) <= 1


def test_generated_bins_with_edges_stay_finite():
    bins = BinSpec(3, (2,), edges=(512, 1024), range=(256, 2048)).generated_bins()
    assert bins == (Bin(0, 256, 512), Bin(1, 512, 1024), Bin(2, 1024, 2048))
    beyond = BinSpec(2, (2,), edges=(4000,), range=(256, 2048)).generated_bins()
    assert beyond == (Bin(0, 256, 4000), Bin(1, 4000, 8000))
    below = BinSpec(2, (2,), edges=(100,), range=(256, 2048)).generated_bins()
    assert below == (Bin(0, 50, 100), Bin(1, 100, 2048))
    assert BinSpec(1, (2,), edges=()).generated_bins() == (Bin(0, 256, 2048),)


@given(st.permutations(list(range(20))), st.integers(0, 5), st.integers(0, 6))
def test_selection_ignores_the_order_of_rows(order, seed, wanted):
    rows = [entry(i, i % 3) for i in range(20)]
    spec = BinSpec(3, (wanted,))
    chosen = select([rows[i] for i in order], spec, seed)
    assert chosen == select(rows, spec, seed)
    assert [e.bin for e in chosen] == sorted(e.bin for e in chosen)
    assert all(sum(e.bin == b for e in chosen) == min(wanted, 7 - (b == 2)) for b in range(3))


def test_the_seed_changes_the_selection_and_growing_it_keeps_the_first():
    rows = [entry(i, 0) for i in range(50)]
    few, more = (select(rows, BinSpec(1, (n,)), 1) for n in (5, 10))
    assert more[:5] == few
    assert select(rows, BinSpec(1, (5,)), 2) != few


def test_counts_per_bin():
    rows = [entry(i, i % 2) for i in range(20)]
    assert [e.bin for e in select(rows, BinSpec(2, (1, 3)), 0)] == [0, 1, 1, 1]


def test_size_by_length_needs_a_length():
    example = Example("x", "q", "c", ("a",), {"length": 4200})
    assert size_of(example, 17, "length") == 4200
    assert size_of(example, 17, "tokens") == 17
    with pytest.raises(UsageError, match="length"):
        size_of(Example("x", "q", "c", ("a",)), 17, "length")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "per_bin": (1,)}, "bins.n"),
        ({"n": 3, "per_bin": (1, 2)}, "bins.per_bin"),
        ({"n": 1, "per_bin": (-1,)}, "bins.per_bin"),
        ({"n": 2, "per_bin": (1,), "edges": (1, 2)}, "bins.edges"),
        ({"n": 3, "per_bin": (1,), "edges": (5, 5)}, "bins.edges"),
        ({"n": 1, "per_bin": (1,), "range": (10, 10)}, "bins.range"),
    ],
)
def test_contradictions_are_refused_in_two_lines(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        BinSpec(**arguments)
    assert len(str(caught.value).splitlines()) == 2
