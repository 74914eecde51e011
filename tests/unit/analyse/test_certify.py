"""Certificates through the public judging path: what passes how often, and what never does."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pytest_kvbench.analyse.cells import (
    cell_row,
    family_verdicts,
    judge_each,
    judge_over_bins,
)
from pytest_kvbench.analyse.certify import certificates
from pytest_kvbench.analyse.judge import PAIRS, checked_pairs
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.tables import split_cells
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline.certify import obstacles
from pytest_kvbench.rows import CellRow, NoiseFloor

BINS = 5
LOSSLESS, LOSSY = 0.5, 0.2
FLOOR: NoiseFloor = {
    "n": 9,
    "delta": 0.0,
    "ci_low": -0.1,
    "ci_high": 0.1,
    "losses": 0,
    "gains": 0,
    "method": "",
    "tasks": {"niah/single": 9},
    "replies": 9,
    "same": 9,
    "discordance": 0.0,
}  # type: ignore[typeddict-item]


def gate(per_bin: int) -> Experiment:
    """Five bins of few examples, one policy at two budgets."""
    return Experiment(
        group="g",
        tasks=["niah/single"],
        bins={"n": BINS, "per_bin": per_bin},
        kv={"policies": ["snapkv"], "budgets": [1.0, LOSSLESS, LOSSY]},
        gate={"mode": "certify"},
    )


def asked_for() -> tuple[int, int]:
    """The fewest examples per bin that could pass, and those that pass most of the time."""
    (found,) = obstacles(gate(5))
    assert (found.key, "25 examples in 5 bins can never hold" in found.what) == (
        "bins.per_bin",
        True,
    )
    least, enough = re.search(r"per_bin: (\d+)", found.what), re.search(r"\d+", found.hint)
    assert least is not None
    assert enough is not None
    return int(least[1]), int(enough[0])


def pairs(random: np.random.Generator, per_bin: int, differ: float) -> pd.DataFrame:
    """A control that is right nine times in ten; an arm that answers alike, and one that does not.

    `differ`: share of answers of the first arm that differ by chance, either way.
    """
    n = BINS * per_bin
    control = random.random(n) < 0.9
    flipped = random.random(n) < differ * np.where(control, 0.5 / 0.9, 0.5 / 0.1)
    lost = random.random(n) < 0.45 / 0.9
    arms = {LOSSLESS: control ^ flipped, LOSSY: control & ~lost, 0.01: np.zeros(n, dtype=bool)}
    ids = np.arange(n)
    tables = [
        pd.DataFrame(
            {
                "task": "niah/single",
                "bin": ids % BINS,
                "policy": "random" if budget < 0.1 else "snapkv",
                "budget": budget,
                "example_id": ids,
                "cluster": ids,
                "control": control * 1.0,
                "treated": treated * 1.0,
            }
        )[PAIRS]
        for budget, treated in arms.items()
    ]
    return pd.concat(tables)


def certified(table: pd.DataFrame) -> dict[float, bool]:
    """By budget, with all proven, sane and answered twice."""
    is_bad = table["policy"] == "random"
    proven: list[Any] = [{**row, "proof": "proven"} for row in judged(table[~is_bad])]
    bad: list[Any] = [row for row in judged(table[is_bad]) if row["bin"] == "all"]
    found = certificates(proven, bad, FLOOR, {})
    return {row["budget"]: row["certified"] for row in found}


def judged(table: pd.DataFrame) -> list[CellRow]:
    """What `judge_pairs` makes of a table but for the ladders, which take most of its time."""
    cells, rules = split_cells(checked_pairs(table)), Rules(0.10, 0.05)
    results = judge_each(cells, {}, {}, rules)
    pooled = judge_over_bins(cells, {}, results, rules)
    verdicts = {**family_verdicts(results, 0, rules), **family_verdicts(pooled, 0, rules)}
    return [cell_row(key, one, verdicts[key]) for key, one in {**results, **pooled}.items()]


@pytest.mark.parametrize("seeds", [6, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("place", "differ"), [(0, 0.0), (1, 0.1)])
def test_the_number_asked_for_does(place: int, differ: float, seeds: int) -> None:
    per_bin, random = asked_for()[place], np.random.default_rng(20261127)
    found = [certified(pairs(random, per_bin, differ)) for _ in range(seeds)]
    assert not any(one[LOSSY] for one in found)
    assert np.mean([one[LOSSLESS] for one in found]) >= 0.8


def test_five_in_a_bin_never_pass() -> None:
    random = np.random.default_rng(1)
    assert not any(any(certified(pairs(random, 5, 0.0)).values()) for _ in range(4))


def test_at_one_sided_5_percent_29_pairs_do() -> None:
    settings = {"mode": "certify", "alpha_side": 0.05}
    plan = {"group": "g", "tasks": ["niah/single"], "kv": {"budgets": [1.0, 0.5]}}
    for per_bin, passes in ((28, False), (29, True)):
        bins = {"n": 1, "per_bin": per_bin}
        assert (not list(obstacles(Experiment(**plan, bins=bins, gate=settings)))) == passes
