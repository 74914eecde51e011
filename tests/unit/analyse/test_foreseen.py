"""Power by simulation: that of the rules that judge, bins, contexts, rounds and family included."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_kvbench.analyse.foreseen import (
    Truth,
    power_of_rows,
    power_of_rows_in_rounds,
    sampled,
    size_for,
)
from pytest_kvbench.analyse.layout import Layout
from pytest_kvbench.analyse.power import power_of
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.sequential import Drawn, Limits, Rung, advance, start

RULES = Rules(0.10, 0.05)


def test_of_one_bin_it_is_the_exact_power():
    found = power_of_rows(Layout(((1,) * 80,)), Truth(0.08, -0.02), RULES)
    assert found == pytest.approx(power_of(80, 0.10, 0.08, -0.02, 0.05), abs=0.1)


def test_a_family_costs_power_and_so_do_shared_contexts():
    bins = ((1,) * 24,) * 5
    alone, family = (power_of_rows(Layout(bins, rows), Truth(0.1), RULES) for rows in (1, 10))
    assert family < alone - 0.1
    contexts = Layout(((5,) * 20,))
    spread, shared = (power_of_rows(contexts, Truth(0.1, 0, s), RULES) for s in (0.0, 1.0))
    assert spread == pytest.approx(0.74, abs=0.1)  # as tests/benchmarks/calibration.py finds
    assert shared < 0.1
    assert power_of_rows(contexts, Truth(0.0), RULES) == 0  # 36 contexts are needed


def test_the_size_found_reaches_the_power():
    layout = Layout(((5,) * 4,))
    n = size_for(layout, Truth(0.05, 0, 0.3), RULES, 0.8)
    assert n is not None
    assert power_of_rows(layout.grown(n), Truth(0.05, 0, 0.3), RULES, seed=1) > 0.65
    assert power_of_rows(layout.grown(n // 2), Truth(0.05, 0, 0.3), RULES, seed=1) < 0.8


@pytest.mark.parametrize(
    ("sizes", "margin"), [((1,) * 90, 0.1), ((5,) * 18, 0.3), ((4, 1, 7, 2) * 8, 0.4)]
)
def test_a_simulated_ladder_stops_where_a_real_one_does(sizes, margin):
    limits, arms = Limits(margin, 0.05 / 3, 12, 80), 3
    rungs = [Rung("p", 0.1 * (arm + 1)) for arm in range(arms)]
    held = 0
    for seed in range(15):
        ladder = sampled(np.random.default_rng(seed), np.array(sizes), limits, arms, Truth(0.1))
        differences = [spread(totals, sizes) for totals in ladder.totals]
        drawn = Drawn(
            np.arange(len(sizes)).repeat(sizes), dict(zip(rungs, differences, strict=True))
        )
        done = advance(start(rungs, drawn.clusters, limits), drawn, limits)
        given_up = any(cell.state == "out of reach" for cell in done.cells.values())
        for arm, rung in enumerate(rungs):
            real, holds = done.cells[rung], bool(ladder.held[arm])
            assert holds >= (real.verdict == "holds")
            assert given_up or holds == (real.verdict == "holds")
            if holds and not given_up:
                assert real.n == sum(sizes[: ladder.contexts[arm]])
            held += holds
    assert held


def spread(totals: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Differences of single examples with such totals."""
    parts = (
        np.sign(total) * (np.arange(size) < abs(total))
        for total, size in zip(totals, sizes, strict=True)
    )
    return np.concatenate(list(parts)).astype(float)


def test_rows_over_bins_in_rounds_are_foreseen_too():
    layout, limits = Layout(((1,) * 60,) * 2, 2), Limits(0.10, 0.05 / 4, 12, 60)
    sure = power_of_rows_in_rounds(layout, limits, 1, Truth(0.0), RULES)
    doubtful = power_of_rows_in_rounds(layout, limits, 1, Truth(0.2, -0.08), RULES)
    assert sure == 1
    assert doubtful < 0.3
