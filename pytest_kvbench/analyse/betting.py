"""Evidence that stays valid however often one looks: the wealth of a gambler who bets on it.

Against "the true difference is at most delta" a gambler stakes a fraction c of his wealth on every
cluster being above delta. If the hypothesis is true he cannot expect to win, so he ever reaches
1 / p with probability at most p, whenever one looks and for whatever reason one stops (Ville 1939;
Waudby-Smith and Ramdas, arXiv:2010.09686). The wealth is averaged over a grid of fractions c, which
costs a little against the best c in hindsight, needs no tuning, and depends on the pairs alone, not
on their order. Exact for every distribution on [-1, 1]; the price against a fixed number of
examples is about half as many again at one look, and it is paid back by stopping early.

Clusters are bet on whole, each with the stake its size deserves beside the largest there is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

_GRID = 20
FRACTIONS = (np.arange(_GRID) + 0.5) / _GRID
WEIGHTS = FRACTIONS**4 * (1 - FRACTIONS) / (FRACTIONS**4 * (1 - FRACTIONS)).sum()
"""Beta(5, 2): high fractions are the good ones where losses are rare, and where they are large."""
LUCK = 2.0  # standard errors that an undecided cell's luck may still turn by
HEDGE = 0.1  # of the wealth, where strata are pooled
STEPS = 400  # of the grid over [-1, 1] on which the mean of strata is bounded


@dataclass(frozen=True, eq=False)
class Betting:
    """Cluster totals of differences in [-1, 1].

    Args:
        n: how many examples the clusters hold.
        totals: shape (clusters,), the sum of each cluster's differences.
        sizes: shape (clusters,), the number of its examples.
        copies: how many clusters each of these stands for.
        largest: the size that stakes are scaled to: of the largest cluster there is, drawn or not.
    """

    n: int
    totals: np.ndarray
    sizes: np.ndarray
    copies: float = 1.0
    largest: float = 1.0
    method: str = "betting, anytime-valid"
    floor: float = -1.0

    @property
    def estimate(self) -> float:
        """The mean difference over examples."""
        return float(np.sort(self.totals).sum() / self.sizes.sum())

    @property
    def variance(self) -> float:
        """Of one example's difference, inflated by what its cluster shares."""
        residuals = self.totals - self.estimate * self.sizes
        return float(self.n * (residuals**2).sum() / self.sizes.sum() ** 2 / self.copies)

    def mirrored(self) -> Betting:
        """Control and treated swapped."""
        return replace(self, totals=-self.totals)

    def grown(self, factor: float) -> Betting:
        """Every cluster `factor` times."""
        return replace(self, n=math.ceil(self.n * factor), copies=self.copies * factor)

    def p_above(self, delta: float) -> float:
        """1 / wealth against "at most `delta`", at most 1."""
        return math.exp(min(0.0, -self.log_wealth(delta)))

    def log_wealth(self, delta: float) -> float:
        """The logarithm of the wealth; it falls as `delta` rises."""
        return float(_averaged(self.log_wealth_of_fractions(np.array([delta])))[0])

    def log_wealth_of_fractions(self, deltas: np.ndarray) -> np.ndarray:
        """The same for each fraction, against each of `deltas`: shape (d, fractions)."""
        wins, counts = self._wins(deltas)
        sums: np.ndarray = wins @ counts
        return sums

    def log_hope(self, delta: float, growth: float) -> float:
        """The logarithm of the wealth at `growth` >= 1 times as many clusters, with good luck.

        The clusters to come are like those seen, and `LUCK` standard errors better.
        """
        wins, counts = self._wins(np.array([delta]))
        k, won = counts.sum(), wins @ counts
        variance = np.maximum(wins**2 @ counts / k - (won / k) ** 2, 0)
        spread = np.sqrt(variance * k * (growth - 1) * growth)
        return float(_averaged(won * growth + LUCK * spread)[0])

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Clusters that are alike, counted: totals, sizes, counts."""
        kinds, counts = np.unique(self.totals + 1j * self.sizes, return_counts=True)
        return kinds.real, kinds.imag, counts * self.copies

    def _wins(self, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithmic wins, shape (d, fractions, kinds), and how often each kind was seen."""
        totals, sizes, counts = self._kinds
        against = deltas[:, None]
        gains = (totals - against * sizes) / (max(sizes.max(), self.largest) * (1 + against))
        return np.log1p(FRACTIONS[:, None] * gains[:, None, :]), counts


def _averaged(log_wealths: np.ndarray) -> np.ndarray:
    """The logarithm of the weighted mean over the last axis."""
    highest = log_wealths.max(axis=-1)
    means: np.ndarray = highest + np.log(np.exp(log_wealths - highest[..., None]) @ WEIGHTS)
    return means


@dataclass(frozen=True, eq=False)
class StratifiedBetting:
    """The equal-weight mean of two or more independent strata, each stopped when it pleased.

    Whatever the strata's true differences are, a gambler who bets on each can expect no more than
    he has. So the mean is rejected as "at most delta" only where he would be rich under every
    choice of differences with such a mean: the product of wealths at its smallest, for each
    fraction, on a grid of `2 / STEPS` that rounds against him. A little of his wealth bets the
    other way, lest a choice that is absurd for one stratum excuse all others.
    """

    strata: Sequence[Betting]
    method: str = "betting, bins as strata"
    floor: float = -1.0

    @property
    def n(self) -> int:
        """Examples in all strata."""
        return sum(s.n for s in self.strata)

    @property
    def estimate(self) -> float:
        """The mean of the strata's means."""
        return float(np.mean([s.estimate for s in self.strata]))

    @property
    def variance(self) -> float:
        """Of one example's difference, at the strata's shares of the examples."""
        return self.n * sum(s.variance / s.n for s in self.strata) / len(self.strata) ** 2

    def mirrored(self) -> StratifiedBetting:
        """Control and treated swapped."""
        return replace(self, strata=[s.mirrored() for s in self.strata])

    def grown(self, factor: float) -> StratifiedBetting:
        """Every stratum grown."""
        return replace(self, strata=[s.grown(factor) for s in self.strata])

    def p_above(self, delta: float) -> float:
        """1 / the smallest wealth over all differences with a mean of `delta` or less.

        Between two places of the grid on a straight line, which only rounds further.
        """
        place = (delta + 1) * len(self.strata) * STEPS / 2
        below, last = math.floor(place), len(self._least) - 1
        high, low = self._least[[min(below, last), min(below + 1, last)]]
        return math.exp(min(0.0, -float(high + (place - below) * (low - high))))

    @cached_property
    def _least(self) -> np.ndarray:
        """The smallest log wealth by the sum of the strata's places, and over all smaller sums."""
        sums = functools.reduce(_smallest_sums, map(_in_steps, self.strata))
        return _averaged(np.minimum.accumulate(sums, axis=1).T)


def _in_steps(stratum: Betting) -> np.ndarray:
    """A lower bound of the log wealth in each step of the grid: shape (fractions, STEPS)."""
    blocks = np.array_split(np.linspace(-1, 1, STEPS + 1)[1:-1], 20)  # what fits the cache
    other = stratum.mirrored()
    above = np.concatenate([stratum.log_wealth_of_fractions(edges) for edges in blocks])
    below = np.concatenate([other.log_wealth_of_fractions(-edges) for edges in blocks])
    nothing = np.full((1, _GRID), -np.inf)
    hedged = np.logaddexp(
        np.vstack([above, nothing]) + math.log(1 - HEDGE),
        np.vstack([nothing, below]) + math.log(HEDGE),
    )
    bounds: np.ndarray = hedged.T
    return bounds


def _smallest_sums(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Row by row, the smallest one[i] + other[j] by i + j."""
    width = one.shape[1]
    sums = np.full((len(one), width + other.shape[1] - 1), np.inf)
    for place, values in enumerate(other.T):
        part = sums[:, place : place + width]
        np.minimum(part, one + values[:, None], out=part)
    return sums


def betting_of(differences: np.ndarray, codes: np.ndarray, largest: int = 1) -> Betting:
    """The evidence of `differences` in clusters coded 0, 1, 2 ... without gaps; shape (n,) each.

    A stake must not depend on what is yet to come: `largest` is the size of the largest cluster
    that could be drawn, where not all were.
    """
    order = np.argsort(differences)
    totals = np.bincount(codes[order], weights=differences[order])
    return Betting(len(codes), totals, np.bincount(codes).astype(float), largest=largest)
