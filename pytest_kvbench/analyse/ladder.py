"""The mean difference from the control along a ladder of budgets, and how it varies by resampling.

Clusters are resampled whole, with all their budgets together, so that neighbouring budgets move as
they do in reality. Weights are flat Dirichlet (Rubin's Bayesian bootstrap, 1981): unlike counts
they leave no cluster out, and one matrix product resamples every budget at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_kvbench.analyse.pooled import Pairs

REPLICATES = 2_000
BLOCK = 4_000_000  # weights drawn at a time: 16 MB


@dataclass(frozen=True, eq=False)
class CellPairs(Pairs):
    """`Pairs` whose examples are named by integer codes: `examples`, shape (n,).

    `chance`: the mean score of guessing.
    """

    examples: np.ndarray
    chance: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, eq=False)
class Ladder:
    """Curves over `budgets`, ascending, shape (k,).

    `seen` has shape (k,). `low` and `high`, shape (replicates, k), are resampled curves that admit
    one unseen cluster each: one that lost everything, and one that gained everything.
    """

    budgets: np.ndarray
    seen: np.ndarray
    low: np.ndarray
    high: np.ndarray


def ladder_of(rungs: Sequence[tuple[float, CellPairs]], seed: Sequence[int]) -> Ladder:
    """The ladder of one task and bin.

    Args:
        rungs: (budget, pairs), one or more, budgets ascending.
        seed: of the resampling.
    """
    budgets = np.array([budget for budget, _ in rungs])
    totals, counts = cluster_totals([pairs for _, pairs in rungs])
    low, high = resampled(totals, counts, np.random.default_rng(seed))
    return Ladder(budgets, totals.sum(axis=0) / counts.sum(axis=0), low, high)


def cluster_totals(rungs: Sequence[Pairs]) -> tuple[np.ndarray, np.ndarray]:
    """Per cluster and budget, the sum of differences and the number of pairs: shape (clusters, k).

    Rows are ordered by what they hold, so that neither the order of examples nor their ids matter.
    """
    labels, codes = np.unique(np.concatenate([r.clusters for r in rungs]), return_inverse=True)
    ends = np.cumsum([len(r.clusters) for r in rungs])
    totals, counts = (np.zeros((len(labels), len(rungs))) for _ in range(2))
    for column, (rung, code) in enumerate(zip(rungs, np.split(codes, ends[:-1]), strict=True)):
        totals[:, column] = np.bincount(code, rung.treated - rung.control, len(labels))
        counts[:, column] = np.bincount(code, minlength=len(labels))
    order = np.lexsort(np.hstack([counts, totals]).T)
    return totals[order], counts[order]


def resampled(
    totals: np.ndarray, counts: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`Ladder.low` and `Ladder.high` by `REPLICATES` draws of weights over clusters."""
    both = np.hstack([totals, counts]).astype(np.float32)  # half the time, errors of 1e-6
    unseen = counts.mean(axis=0)
    low, high = [], []
    per_block = max(1, BLOCK // len(totals))
    for start in range(0, REPLICATES, per_block):
        shape = (min(per_block, REPLICATES - start), len(totals))
        weights = random.standard_exponential(shape, dtype=np.float32)
        extra = random.standard_exponential((len(weights), 1)) * unseen
        total, count = np.split((weights @ both).astype(float), 2, axis=1)
        low.append((total - extra) / (count + extra))
        high.append((total + extra) / (count + extra))
    return np.concatenate(low), np.concatenate(high)


def over_bins(ladders: Sequence[Ladder]) -> Ladder | None:
    """The equal-weight mean of the ladders, at the budgets all of them have; None without any."""
    common = set.intersection(*(set(ladder.budgets) for ladder in ladders)) if ladders else set()
    if not common:
        return None
    parts = [at(ladder, common) for ladder in ladders]
    return Ladder(
        parts[0].budgets,
        np.mean([p.seen for p in parts], axis=0),
        np.mean([p.low for p in parts], axis=0),
        np.mean([p.high for p in parts], axis=0),
    )


def at(ladder: Ladder, budgets: set[float]) -> Ladder:
    """The ladder at some of its budgets."""
    kept = np.isin(ladder.budgets, list(budgets))
    return Ladder(
        ladder.budgets[kept], ladder.seen[kept], ladder.low[:, kept], ladder.high[:, kept]
    )
