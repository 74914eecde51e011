"""What a choice among many policies and groups costs in certainty: `kvbench best`, simulated.

    python tests/benchmarks/choosing.py [--seed N] [--runs N]

Groups of nine policies at one budget, right-or-wrong pairs, the margin 0.10. Where every policy
loses exactly the margin, whatever is named is wrong; where one loses less, the interval of what is
named must cover its own true difference. Rows are made by the code that makes those of an analysis,
and chosen from by `ops.best`, which takes the pairs of all groups together. Exits with 1 where a
bound is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from pytest_kvbench.analyse.cell import CellResult
from pytest_kvbench.analyse.cells import cell_row, corrected_verdicts
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.ops.arms import COLUMNS
from pytest_kvbench.ops.best import best
from pytest_kvbench.ops.recipes import ALL_LENGTHS

MARGIN, ALPHA = 0.10, 0.05
WRONG, COVERED = 0.03, 0.945
POLICIES = 9
Row = dict[str, Any]


@cache
def judged(losses: int, n: int) -> CellResult:
    """One policy that lost so many answers: what it says depends on nothing else."""
    treated = np.arange(n) >= losses
    pairs = Pairs(np.ones(n), treated.astype(float), np.arange(n))
    return judge_pooled([pairs], margin=MARGIN, alpha=ALPHA, family=POLICIES)


def chosen(random: np.random.Generator, n: int, losses: Sequence[float], groups: int) -> Any:
    """What `best` names of so many groups alike; a policy a loss."""
    total = n * groups
    results = {
        CellKey("t", ALL_BINS, "", f"p{number}", 0.5): judged(random.binomial(total, loss), total)
        for number, loss in enumerate(losses)
    }
    verdicts = corrected_verdicts(results, 0, Rules(MARGIN, ALPHA))
    facts: Row = {
        **dict.fromkeys(COLUMNS, ""),
        "margin": MARGIN,
        "alpha": ALPHA,
        "length": ALL_LENGTHS,
        "params": "{}",
        "kept_bytes_mean": 1.0,
        "holds_in": 0,
        "breaks_in": 0,
        "chosen_from": POLICIES,
    }
    rows = []
    for key, result in results.items():
        row = cell_row(key, result, verdicts[key])
        low, high = row["together"][0]["ci_low"], row["together"][0]["ci_high"]
        rows.append({**facts, **row, "together_low": low, "together_high": high})
    return best(pd.DataFrame(rows)).iloc[0]


def named_wrongly(random: np.random.Generator, n: int, groups: int, runs: int) -> float:
    """How often a policy is named, where all lose exactly the margin."""
    losses = [MARGIN] * POLICIES
    found = [chosen(random, n, losses, groups)["policy"] for _ in range(runs)]
    return float(np.mean([policy is not None for policy in found]))


def covered(random: np.random.Generator, n: int, groups: int, runs: int) -> tuple[float, float]:
    """How often something is named, where all lose 0.02 to 0.06, and of these is covered."""
    losses = np.linspace(0.02, 0.06, POLICIES)
    found = [chosen(random, n, list(losses), groups) for _ in range(runs)]
    named = [row for row in found if row["policy"] is not None]
    true = [-losses[int(row["policy"][1:])] for row in named]
    inside = [row["ci_low"] <= t <= row["ci_high"] for row, t in zip(named, true, strict=True)]
    return len(named) / runs, float(np.mean(inside)) if named else 1.0


def main() -> int:
    """Print every figure beside its bound; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--runs", type=int, default=1_000)
    asked = parser.parse_args()
    random, missed = np.random.default_rng(asked.seed), 0
    for n, groups in ((100, 1), (100, 5), (300, 1), (300, 5)):
        runs = asked.runs
        wrong = named_wrongly(random, n, groups, runs)
        often, inside = covered(random, n, groups, runs)
        missed += wrong > WRONG or inside < COVERED
        print(
            f"n {n}, {groups} groups of {POLICIES}, {runs} runs: names one that loses the margin "
            f"{wrong:.3f}; names one of small loss {often:.2f}, its interval covers {inside:.3f}"
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
