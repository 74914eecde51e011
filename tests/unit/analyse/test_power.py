"""Planning: how many examples, and that they keep what was promised."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_kvbench.analyse.binary import BinaryPairs
from pytest_kvbench.analyse.evidence import p_holds
from pytest_kvbench.analyse.power import fewest, plan, power_of
from pytest_kvbench.errors import UsageError


def test_lossless_needs_36_pairs_for_ten_points():
    assert fewest(0.10, 0.05) == 36
    assert plan(0.10, discordance=0.0).n == 36


def test_power_is_that_of_simulated_verdicts():
    n, margin, loss, gain = 80, 0.10, 0.07, 0.04
    random = np.random.default_rng(0)
    counts = random.multinomial(n, [loss, gain, 1 - loss - gain], size=4_000)
    held = [p_holds(BinaryPairs(int(b), int(c), n), margin) < 0.025 for b, c, _ in counts]
    assert power_of(n, margin, loss + gain, gain - loss, 0.05) == pytest.approx(
        np.mean(held), abs=0.03
    )


@pytest.mark.parametrize(("margin", "discordance"), [(0.10, 0.05), (0.10, 0.2), (0.05, 0.1)])
def test_a_plan_reaches_its_power_with_few_examples_to_spare(margin, discordance):
    planned = plan(margin, discordance=discordance, power=0.8)
    assert planned.power >= 0.8
    assert power_of(planned.n, margin, discordance, 0.0, 0.05) == planned.power
    assert power_of(round(0.85 * planned.n), margin, discordance, 0.0, 0.05) < 0.8


def test_more_cells_a_true_loss_and_more_power_cost_more():
    base = plan(0.10, discordance=0.1).n
    assert plan(0.10, discordance=0.1, cells=20).n > base
    assert plan(0.10, discordance=0.1, delta=-0.03).n > base
    assert plan(0.10, discordance=0.1, power=0.95).n > base
    assert plan(0.20, discordance=0.1).n < base


def test_what_no_number_decides_has_no_number():
    assert plan(0.0101, discordance=0.9, delta=-0.01).n is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 0.0},
        {"discordance": 1.2},
        {"delta": -0.1},
        {"delta": 0.3},
        {"power": 1.0},
        {"alpha": 0.0},
        {"cells": 0},
    ],
)
def test_wrong_plans_are_refused(wrong):
    arguments = {"margin": 0.10, "discordance": 0.1, **wrong}
    with pytest.raises(UsageError, match=r"(?s)is not valid.*Expected"):
        plan(arguments.pop("margin"), **arguments)
