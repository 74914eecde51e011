"""Right-or-wrong pairs in strata of any size: the equal-weight mean by a score-type rule.

What `binary` does for one stratum, for several. Of all rates with the mean that is tested, those
are taken that make the data likeliest: an unlucky hypothesis puts its losses where few examples
were asked, so that 2 right answers of 2 beside 200 of 200 hold nothing. The tail is the exact one
of a sum of independent ternary draws, each weighted by one over the size of its stratum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import ndtr, ndtri

from pytest_kvbench.analyse.binary import DEVIATIONS, RARE_EVENTS, BinaryPairs, whole_power
from pytest_kvbench.analyse.evidence import PRECISION, Counts, rising_root

RESOLUTION = 8  # lattice steps of the lightest pair, where strata differ in size
FEW = 5  # pairs of a stratum that has rates of its own
POLISH = 2
STUDENT = 1.21  # (z^2 + 1) / 4 at one-sided 0.025


@dataclass(frozen=True)
class StratifiedPairs(Counts):
    """Strata of independent pairs; `shares` of the mean, in proportion, are theirs."""

    strata: tuple[BinaryPairs, ...]
    shares: tuple[int, ...]
    method: str = "score, exact tail, bins as strata"
    floor: float = -1.0

    @classmethod
    def of(cls, bins: Sequence[BinaryPairs]) -> StratifiedPairs:
        """Bins of equal weight. Those of equally few pairs are one stratum.

        So few say nothing of their own rates, and as if these were alike the tail is the longer one
        (Hoeffding 1956).
        """
        small = sorted({b.n for b in bins if b.n < FEW})
        together = [[b for b in bins if b.n == n] for n in small]
        groups = [*together, *([b] for b in bins if b.n >= FEW)]
        return cls(tuple(map(added, groups)), tuple(map(len, groups)))

    @property
    def n(self) -> int:
        """Pairs in all strata."""
        return sum(s.n for s in self.strata)

    @property
    def estimate(self) -> float:
        """The mean of the strata's differences."""
        parts = zip(self.shares, self.strata, strict=True)
        return math.fsum(share * s.estimate for share, s in parts) / sum(self.shares)

    @property
    def variance(self) -> float:
        """Of one pair's difference, at the strata's shares of the pairs."""
        parts = zip(self.shares, self.strata, strict=True)
        error = sum(share**2 * s.variance / s.n for share, s in parts)
        return self.n * error / sum(self.shares) ** 2

    def mirrored(self) -> StratifiedPairs:
        """Control and treated swapped."""
        return replace(self, strata=tuple(s.mirrored() for s in self.strata))

    def grown(self, factor: float) -> StratifiedPairs:
        """Every stratum grown."""
        return replace(self, strata=tuple(s.grown(factor) for s in self.strata))

    def p_above(self, delta: float) -> float:
        """P(weighted gains - losses as seen or larger), at the likeliest rates of mean `delta`."""
        losses, gains = self.restricted_rates(delta)
        return weighted_tail(self._sizes, losses, gains, self._weights, self._seen)

    def restricted_rates(self, delta: float) -> tuple[np.ndarray, np.ndarray]:
        """Maximum likelihood (loss rates, gain rates) subject to a mean difference of `delta`."""
        pull = pull_at(self._mean_at, delta, float(self._sizes.max()))
        losses, gains = np.array(self._rates_at(pull)).T
        return losses, gains

    def _rates_at(self, pull: float) -> list[tuple[float, float]]:
        """The (loss rate, gain rate) of each stratum where the heaviest is pulled so much."""
        return [
            pulled(*c, pull * lever) for c, lever in zip(self._counts, self._levers, strict=True)
        ]

    def _mean_at(self, pull: float) -> float:
        parts = zip(self.shares, self._rates_at(pull), strict=True)
        return sum(share * (gain - loss) for share, (loss, gain) in parts) / sum(self.shares)

    @cached_property
    def _levers(self) -> list[float]:
        return [share / max(self.shares) for share in self.shares]

    @cached_property
    def _counts(self) -> list[tuple[int, int, int]]:
        return [(s.losses, s.gains, s.n - s.losses - s.gains) for s in self.strata]

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([s.n for s in self.strata])

    @cached_property
    def _weights(self) -> np.ndarray:
        return lattice(self._sizes / np.array(self.shares))

    @cached_property
    def _seen(self) -> int:
        return round(float(self._weights @ [gains - losses for losses, gains, _ in self._counts]))


def added(pairs: Sequence[BinaryPairs]) -> BinaryPairs:
    """All their pairs together."""
    counts = ((p.losses, p.gains, p.n) for p in pairs)
    return BinaryPairs(*(sum(column) for column in zip(*counts, strict=True)))


def lattice(sizes: np.ndarray) -> np.ndarray:
    """Weights near one over the sizes, in whole steps: as good a statistic, with an exact tail."""
    largest = sizes.max()
    fine = 1 if (sizes == largest).all() else RESOLUTION
    weights: np.ndarray = np.round(fine * largest / sizes).astype(int)
    return weights


def pull_at(mean: Callable[[float], float], delta: float, scale: float) -> float:
    """The pull on the strata's differences that gives them a mean of `delta`.

    Args:
        mean: by the pull on the heaviest stratum; more of it means a larger one.
        delta: in (-1, 1).
        scale: of a pull that matters: the size of the largest stratum.
    """

    def excess(pull: float) -> float:
        return mean(pull) - delta

    reach = scale
    while (below := excess(-reach)) > 0 or excess(reach) < 0:
        reach *= 2
    return rising_root(excess, (-reach, below), reach, PRECISION)


def pulled(losses: int, gains: int, rest: int, pull: float) -> tuple[float, float]:
    """The (loss rate, gain rate) of one stratum that maximise log likelihood + pull (gain - loss).

    Strata are few: one after the other they take a tenth of the time of arrays so short.
    With l = losses / (v + pull), g = gains / (v - pull) and u = rest / v, v is where they add up to
    1, but |pull| at least; what is missing there is a loss (or a gain) that nothing seen speaks of.
    """
    v = _largest_root(losses, gains, rest, pull)
    loss = losses / (v + pull) if losses else 0.0
    gain = gains / (v - pull) if gains else 0.0
    missing = max(1 - loss - gain - (rest / v if rest else 0.0), 0.0)
    return (loss + missing, gain) if pull < 0 else (loss, gain + missing)


def _largest_root(losses: int, gains: int, rest: int, pull: float) -> float:
    """The largest v of losses / (v + pull) + gains / (v - pull) + rest / v = 1, |pull| at least.

    A cubic with three real roots, by Viete's cosine; Newton's steps give back the last digits.
    """
    n, square = losses + gains + rest, pull * pull
    middle, last = pull * (gains - losses) + square, rest * square
    third = n / 3
    spread = math.sqrt(third * third + middle / 3)
    turned = (third**3 + third * middle / 2 - last / 2) / spread**3
    v = third + 2 * spread * math.cos(math.acos(min(max(turned, -1.0), 1.0)) / 3)
    value = ((v - n) * v - middle) * v + last
    for _ in range(POLISH):
        slope = (3 * v - 2 * n) * v - middle
        if slope <= 0:
            break
        nearer = v - value / slope
        left = ((nearer - n) * nearer - middle) * nearer + last
        if abs(left) >= abs(value):
            break  # where two roots meet, both are noise, and a step would lead anywhere
        v, value = nearer, left
    return max(v, abs(pull))


def weighted_tail(
    sizes: np.ndarray, losses: np.ndarray, gains: np.ndarray, weights: np.ndarray, seen: int
) -> float:
    """P(sum of weight (gains - losses) >= seen) over the draws of all strata.

    By the characteristic function, as `binary.upper_tail` does, over a window that holds all but
    1e-17 of the distribution.
    """
    most = int(weights @ sizes)
    middle = float(weights * sizes @ (gains - losses))
    spread, centre = math.sqrt(float(weights**2 * sizes @ (losses + gains))), round(middle)
    half = math.ceil(DEVIATIONS * spread) + RARE_EVENTS * int(weights.max())
    low, high = max(-most, centre - half), min(most, centre + half)
    width = 1 << (high - low).bit_length()  # at least high - low + 1, and quick to transform
    circle = np.exp(2j * np.pi / width * np.arange(width))
    places = np.arange(width // 2 + 1)
    characteristic = np.ones(len(places), dtype=complex)
    for size, loss, gain, weight in zip(sizes, losses, gains, weights, strict=True):
        turn = circle[places * weight % width]
        characteristic *= whole_power(1 - loss - gain + gain * turn.conj() + loss * turn, int(size))
    chances = np.fft.irfft(characteristic, width)
    p = float(chances[np.arange(max(seen, low), high + 1) % width].sum().clip(0.0, 1.0))
    return scattered(p, sizes, np.array([losses, gains]), weights)


def scattered(p: float, sizes: np.ndarray, rates: np.ndarray, weights: np.ndarray) -> float:
    """A small p-value, raised for rates that were fitted to few pairs each.

    A variance fitted to n draws is (n - 1) / n of the true one, and scatters: at the levels of
    interest Student's quantile is that of a normal times 1 + `STUDENT` / degrees of freedom. The
    constraint takes a share of both back. Never more than up to the variance of strata that are
    alike, so that nothing changes where they are, or where there is one.
    """
    loss, gain = rates
    scale = weights**2 * sizes
    variances = scale * np.maximum(loss + gain - (gain - loss) ** 2, 0)
    total = float(variances.sum())
    if p >= 0.5 or not total:
        return p
    means = rates @ (weights * sizes) / float(weights @ sizes)
    alike = float(scale.sum()) * float(means.sum() - (means[1] - means[0]) ** 2)
    shares, freedoms = variances / total, np.maximum(sizes - 1, 1)
    fitted = float(shares @ (1 + (1 - shares) / freedoms))
    scatter = STUDENT * (1 - float(shares @ shares)) * float(shares**2 @ (1 / freedoms))
    ratio = min(fitted * (1 + scatter) ** 2, max(alike / total, 1.0))
    return float(ndtr(ndtri(p) / math.sqrt(ratio)))
