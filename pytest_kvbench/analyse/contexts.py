"""Right-or-wrong pairs that share contexts: what one context shares is fitted, not assumed.

The pairs of a context are draws from rates of its own, which vary from context to context by a
Dirichlet distribution: pairs of one context are correlated by `share`, from 0 (independent) to 1
(a context is lost, gained or kept whole). Mean rates are restricted to the difference that is
tested, as `binary` does; the tail of gains - losses is the exact one, averaged over the shares by
how likely each makes the data. Where nothing differs, nothing is known of the share, and what
remains is that a context may be lost whole: 20 lossless contexts hold no margin of 0.10, 36 do,
however many examples each has. Where single examples differ here and there, it is known to be
small.

Contexts may be of two kinds: some lost (or gained) whole, while the others lose single examples at
random. Such models are averaged in, believed little until the data ask for them. Should one in ten
be lost whole, 20 contexts show none of it in 12% of samples, and no rule that ever holds on such
data can be right more often.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import gammaln, ndtr

from pytest_kvbench.analyse.binary import restricted_rates, whole_power

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
PRIOR = np.array([5.0, *[1.0] * 6, 1000.0])
"""That a context is kept or lost whole is believed until one is seen that is mixed."""
APART = (0.01, 0.02, 0.035, 0.055, 0.08, 0.11, 0.15, 0.2, 0.28, 0.4, 0.6)
APART_PRIOR = 0.1 / len(APART)
"""So little that single losses let 20 contexts hold, and 50 that are of two kinds do not."""
MOST_OF_ONE = 64  # examples of a context; tables of outcomes grow with its square
UNEVEN = 1.5  # the largest context over the smallest, beyond which losses may go with size
MANY = 500  # pairs that differ; with more, the normal tail is as good and far quicker
LEAST_RATE = 1e-12
NEGLIGIBLE = 1e-12  # of a p-value: what a share so unlikely adds to it


@dataclass(frozen=True, eq=False)
class Model:
    """What becomes of a context.

    Args:
        prior: how much it is believed beside the other models.
        rates: mean rates of losses, gains and the rest of the contexts that are not apart.
        share: the correlation of their pairs.
        apart: the chance that a context is lost whole, whatever the others are like.
        side: 0; 1 where it is gained.
    """

    prior: float
    rates: np.ndarray
    share: float = 0.0
    apart: float = 0.0
    side: int = 0

    def log_chances(self, kinds: np.ndarray) -> np.ndarray:
        """Of each kind of context in one order of its pairs."""
        others = log_chances(kinds, self.rates, self.share)
        if not self.apart:
            return others
        whole = kinds[:, self.side] == kinds.sum(axis=1)
        apart = np.where(whole, math.log(self.apart), -np.inf)
        both: np.ndarray = np.logaddexp(others + math.log1p(-self.apart), apart)
        return both

    def nets(self, size: int) -> np.ndarray:
        """The chances of gains - losses of a context, from -size to size."""
        outcomes, ways = outcomes_of(size)
        chances = np.exp(ways + self.log_chances(outcomes))
        return np.bincount(outcomes[:, 1] - outcomes[:, 0] + size, weights=chances)


@dataclass(frozen=True, eq=False)
class ContextPairs:
    """Contexts by what became of their pairs.

    Args:
        kinds: losses, gains and the rest of contexts that are alike, shape (kinds, 3).
        counts: how many contexts are of each kind.
    """

    kinds: np.ndarray
    counts: np.ndarray
    method: str = "score, exact tail, contexts"
    floor: float = -1.0

    @staticmethod
    def fits(codes: np.ndarray) -> bool:
        """Whether the contexts are of nearly one size, and none too large."""
        sizes = np.bincount(codes)
        return bool(sizes.max() <= min(MOST_OF_ONE, UNEVEN * sizes.min()))

    @classmethod
    def of(cls, control: np.ndarray, treated: np.ndarray, codes: np.ndarray) -> ContextPairs:
        """From right-or-wrong scores; clusters coded 0, 1, 2 ... without gaps."""
        outcomes = (treated < control, treated > control, treated == control)
        table = np.array([np.bincount(codes, weights=outcome) for outcome in outcomes]).T
        kinds, counts = np.unique(table.round().astype(int), axis=0, return_counts=True)
        return cls(kinds, counts * 1.0)

    @property
    def n(self) -> int:
        """Pairs in all contexts."""
        return math.ceil(float(self._totals.sum()))

    @property
    def estimate(self) -> float:
        """Gain rate minus loss rate."""
        losses, gains, _ = self._totals
        return float((gains - losses) / self._totals.sum())

    @property
    def variance(self) -> float:
        """Of one pair's difference, inflated by what its context shares."""
        residuals = self._nets - self.estimate * self._sizes
        return float(self.counts @ residuals**2 / self._totals.sum())

    def mirrored(self) -> ContextPairs:
        """Control and treated swapped."""
        return replace(self, kinds=self.kinds[:, [1, 0, 2]])

    def grown(self, factor: float) -> ContextPairs:
        """Every context `factor` times."""
        return replace(self, counts=self.counts * factor)

    def p_above(self, delta: float) -> float:
        """P(gains - losses as seen or larger), by the likeliest models that differ by `delta`."""
        models = [*self._alike(delta), *self._apart(delta)]
        likely = np.array([self.log_likelihood(model) for model in models])
        weights = np.array([model.prior for model in models]) * np.exp(likely - likely.max())
        weights /= weights.sum()
        kept = [pair for pair in zip(weights, models, strict=True) if pair[0] > NEGLIGIBLE]
        return math.fsum(weight * self._tail(model) for weight, model in kept)

    def log_likelihood(self, model: Model) -> float:
        """Of what was seen, but for a constant."""
        return float(self.counts @ model.log_chances(self.kinds))

    def _alike(self, delta: float) -> Iterator[Model]:
        """Contexts of one kind, whose pairs share a lot or a little."""
        rates = rates_of(self._totals, delta)
        for prior, share in zip(PRIOR, SHARES, strict=True):
            yield Model(float(prior), rates, share)

    def _apart(self, delta: float) -> Iterator[Model]:
        """Some contexts lost, or gained, whole; of the others each pair for itself."""
        for side, sign in ((0, 1), (1, -1)):
            others = self.counts * (self.kinds[:, side] < self._sizes) @ self.kinds
            if self._sizes.max() == 1 or not others.any():
                continue
            for apart in APART:
                left = (delta + sign * apart) / (1 - apart)
                if abs(left) < 1:
                    yield Model(APART_PRIOR, rates_of(others, left), 0.0, apart, side)

    def _tail(self, model: Model) -> float:
        """P(gains - losses >= seen)."""
        sizes, inverse = np.unique(self._sizes, return_inverse=True)
        numbers = np.ceil(np.bincount(inverse, weights=self.counts) - 1e-9)
        nets = [model.nets(int(size)) for size in sizes]
        most = int(sizes @ numbers)
        seen = math.floor(float(self.counts @ self._nets) + 1e-9)
        if self._totals[:2].sum() > MANY:
            return normal_tail(nets, numbers, seen)
        width = 1 << (2 * most).bit_length()
        characteristic = np.ones(width // 2 + 1, dtype=complex)
        for chances, number in zip(nets, numbers, strict=True):
            characteristic *= whole_power(np.fft.rfft(chances, width), int(number))
        sums = np.fft.irfft(characteristic, width)
        return float(sums[most + seen : 2 * most + 1].sum().clip(0.0, 1.0))

    @cached_property
    def _sizes(self) -> np.ndarray:
        sizes: np.ndarray = self.kinds.sum(axis=1)
        return sizes

    @cached_property
    def _nets(self) -> np.ndarray:
        nets: np.ndarray = self.kinds[:, 1] - self.kinds[:, 0]
        return nets

    @cached_property
    def _totals(self) -> np.ndarray:
        totals: np.ndarray = self.counts @ self.kinds
        return totals


def rates_of(totals: np.ndarray, delta: float) -> np.ndarray:
    """The likeliest rates of losses, gains and the rest that differ by `delta`."""
    losses, gains, rest = totals
    loss, gain = restricted_rates(losses, gains, losses + gains + rest, delta)
    return np.maximum([loss, gain, 1 - loss - gain], LEAST_RATE)


def normal_tail(nets: Sequence[np.ndarray], numbers: np.ndarray, seen: int) -> float:
    """P(sum of nets >= seen), of so many contexts of each size, whose nets have these chances."""
    mean = variance = 0.0
    for chances, number in zip(nets, numbers, strict=True):
        values = np.arange(len(chances)) - len(chances) // 2
        middle = float(chances @ values)
        mean, variance = (
            mean + number * middle,
            variance + number * (chances @ values**2 - middle**2),
        )
    return float(ndtr((mean - seen + 0.5) / math.sqrt(variance)))


def log_chances(kinds: np.ndarray, rates: np.ndarray, share: float) -> np.ndarray:
    """Of each kind of context in one order of its pairs: Dirichlet-multinomial."""
    if share == 0:
        independent: np.ndarray = kinds @ np.log(rates)
        return independent
    if share == 1:
        whole = kinds == kinds.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            together: np.ndarray = np.log(whole @ rates)
        return together
    weights = rates * (1 - share) / share
    total = weights.sum()
    parts = (gammaln(kinds + weights) - gammaln(weights)).sum(axis=1)
    chances: np.ndarray = parts + gammaln(total) - gammaln(total + kinds.sum(axis=1))
    return chances


@functools.lru_cache(maxsize=256)
def outcomes_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """What can become of a context of `size`, and the logarithm of the orders of each."""
    losses, gains = np.indices((size + 1, size + 1)).reshape(2, -1)
    possible = losses + gains <= size
    losses, gains = losses[possible], gains[possible]
    kinds = np.array([losses, gains, size - losses - gains]).T
    return kinds, gammaln(size + 1) - gammaln(kinds + 1).sum(axis=1)
