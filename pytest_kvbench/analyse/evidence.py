"""What data say about one true difference: a p-value for every hypothesis, and its inversion.

An interval here is nothing but the set of differences that are not rejected, so that a verdict by
p-value and a verdict by looking at the interval can never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from scipy.special import ndtri

STEPS = 100
TOLERANCE = 1e-7  # of a limit, in units of its own standard error
PRECISION = 1e-12
SMALLEST = 1e-300  # p-values below have no place on a normal scale
REMEMBERED = 1_000  # limits of counts


class Evidence(Protocol):
    """Data on a difference in [-1, 1], treated minus control."""

    @property
    def method(self) -> str:
        """The name of the method, as reports give it."""

    @property
    def n(self) -> int:
        """How many examples it rests on."""

    @property
    def estimate(self) -> float:
        """The difference seen."""

    @property
    def floor(self) -> float:
        """The smallest difference there can be."""

    @property
    def variance(self) -> float:
        """Of one example's difference, with what its cluster shares: n times the squared error."""

    def p_above(self, delta: float) -> float:
        """One-sided p-value against "the true difference is at most `delta`".

        It does not decrease in `delta`; -1 < delta < 1.
        """

    def __hash__(self) -> int:
        """By its counts, where it is `Counts`."""

    def mirrored(self) -> Evidence:
        """The same data with control and treated swapped."""

    def grown(self, factor: float) -> Evidence:
        """What `factor` times as many examples like these would be."""


class Counts:
    """Evidence that is nothing but a few counts: many rows of one analysis have the same."""


def lower_limit(evidence: Evidence, level: float) -> float:
    """The largest difference rejected as "at most this" at one-sided `level`, or the floor."""
    return (_limit_of_counts if isinstance(evidence, Counts) else _limit)(evidence, level)


def _limit(evidence: Evidence, level: float) -> float:
    target, floor = float(ndtri(level)), evidence.floor
    if evidence.estimate <= floor + PRECISION:
        return floor

    def excess(delta: float) -> float:
        if delta <= floor:
            return float(ndtri(SMALLEST))
        return float(ndtri(min(max(evidence.p_above(delta), SMALLEST), 1 - PRECISION))) - target

    # what a normal interval would be, were one more example wholly lost: most often enough
    step = -target * math.sqrt((evidence.variance + 1 / evidence.n) / evidence.n)
    low = evidence.estimate - step
    while (below := excess(low)) > 0:
        step *= 2
        low = max(floor, evidence.estimate - step)
    return rising_root(excess, (max(low, floor), below), evidence.estimate)


_limit_of_counts = lru_cache(REMEMBERED)(_limit)


def interval(evidence: Evidence, alpha: float) -> tuple[float, float]:
    """The interval at 1 - alpha, `alpha / 2` on either side."""
    return (
        lower_limit(evidence, alpha / 2),
        -lower_limit(evidence.mirrored(), alpha / 2),
    )


def p_holds(evidence: Evidence, margin: float) -> float:
    """P-value against "the loss is `margin` or more"."""
    return evidence.p_above(-margin)


def p_breaks(evidence: Evidence, margin: float) -> float:
    """P-value against "the loss is `margin` or less"."""
    return evidence.mirrored().p_above(margin)


def rising_root(
    function: Callable[[float], float],
    start: tuple[float, float],
    high: float,
    tolerance: float = TOLERANCE,
) -> float:
    """Where a non-decreasing function passes zero, between `start` and `high`.

    `start` is a point and its value. False position, halving the value of an end that stays twice
    (the Illinois rule): on a normal scale a p-value is almost a straight line, and a handful of
    evaluations do.
    """
    (low, below), above, moved = start, function(high), 0
    if above <= 0:
        return high
    for _ in range(STEPS):
        point = low - below * (high - low) / (above - below)
        value = function(point)
        if value <= 0:
            low, below, above = point, value, above / 2 if moved < 0 else above
        else:
            high, above, below = point, value, below / 2 if moved > 0 else below
        moved = 1 if value > 0 else -1
        if abs(value) < tolerance or high - low < PRECISION:
            break
    return point
