"""How many examples: to plan an experiment, and to finish one that is undetermined."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, ndtr, ndtri, xlogy

from pytest_kvbench.analyse.binary import BinaryPairs
from pytest_kvbench.analyse.bounded import BoundedMean
from pytest_kvbench.analyse.evidence import Evidence, lower_limit, p_holds
from pytest_kvbench.analyse.rules import require

POWER = 0.8  # the customary chance to decide, where nobody names another
CERTAIN = 1 - 1e-9  # no hypothesis lies beyond
MOST = 100_000  # beyond this, "more examples" is no advice


@dataclass(frozen=True)
class Plan:
    """Examples per bin (`n`, None above 100,000; within 2% of the fewest) and their exact power."""

    n: int | None
    power: float
    margin: float
    discordance: float
    delta: float
    alpha: float
    cells: int


def fewest(margin: float, alpha: float) -> int:
    """Examples without any loss that hold `margin` > 0: the least n, (1 - margin)^n < alpha / 2."""
    least = math.log(alpha / 2) / math.log1p(-margin)
    return math.floor(min(least, sys.maxsize)) + 1


def normal_size(gap: float, variance: float, alpha: float, power: float) -> float:
    """Examples to see `gap` at one-sided alpha / 2: ((z_alpha + z_power) sd / gap)^2."""
    z = float(ndtri(1 - alpha / 2) + ndtri(power))
    if not gap:
        return math.inf
    deviations = z * math.sqrt(variance) / gap  # not over gap * gap, which may underflow to 0
    return deviations * deviations


def more_needed(evidence: Evidence, margin: float, alpha: float) -> int | None:
    """How many more examples would decide with power 0.8, if what was seen is the truth.

    Data of the same kind are grown until they decide, also when the estimate lies as far on the
    wrong side as in the worst fifth of samples. None above 100,000 examples: the estimate lies
    (nearly) on the margin.
    """
    gap = evidence.estimate + margin
    towards, bar = (evidence, -margin) if gap > 0 else (evidence.mirrored(), margin)
    if not gap or normal_size(gap, evidence.variance, alpha, POWER) > MOST:
        return None

    def decides(n: int) -> bool:
        unlucky = float(ndtri(POWER)) * math.sqrt(evidence.variance / n)
        hypothesis = min(bar + unlucky, CERTAIN)
        return towards.grown(n / evidence.n).p_above(hypothesis) < alpha / 2

    low, high = evidence.n, 2 * evidence.n
    while not decides(high):
        low, high = high, 2 * high
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high - evidence.n


def plan(
    margin: float,
    *,
    discordance: float,
    power: float = POWER,
    alpha: float = 0.05,
    delta: float = 0.0,
    cells: int = 1,
) -> Plan:
    """Examples per bin for a cell to `hold`, right-or-wrong scores, independent examples.

    Args:
        margin: the loss that is still acceptable, (0, 1).
        discordance: share of examples whose score differs between the arms, [|delta|, 1].
        power: chance of the verdict `holds`, (0, 1).
        alpha: two-sided level; `alpha / (2 cells)` is what each cell is tested at.
        delta: the true difference, above -margin.
        cells: treated cells that share the error (Bonferroni; Holm needs no more).

    Raises:
        UsageError: a value outside its range.
    """
    require("margin", margin, 0 < margin < 1, "a number in (0, 1)")
    require("power", power, 0 < power < 1, "a number in (0, 1)")
    require("alpha", alpha, 0 < alpha <= 0.5, "a number in (0, 0.5]")
    require("delta", delta, -margin < delta < 1, f"above -margin = {-margin}")
    require("discordance", discordance, abs(delta) <= discordance <= 1, "in [|delta|, 1]")
    require("cells", cells, cells > 0, "a count above 0")
    level = alpha / cells
    n = max(fewest(margin, level), 1)
    start = normal_size(delta + margin, discordance - delta**2, level, power)
    n = max(n, math.floor(0.7 * start))
    while n <= MOST:
        reached = power_of(n, margin, discordance, delta, level)
        if reached >= power:
            return Plan(n, reached, margin, discordance, delta, alpha, cells)
        n += max(1, n // 50)
    return Plan(None, 0.0, margin, discordance, delta, alpha, cells)


def power_of(n: int, margin: float, discordance: float, delta: float, alpha: float) -> float:
    """Exact chance that `n` pairs hold `margin`: the verdicts of all likely outcomes, summed."""
    loss, gain = (discordance - delta) / 2, (discordance + delta) / 2
    losses, gains = likely_counts(n, loss), likely_counts(n, gain)
    chance = trinomial(n, losses[:, None], gains[None, :], loss, gain)
    total, enough = 0.0, 0
    for row, lost in enumerate(losses):  # more losses ask for more gains: the bar only rises
        while enough < len(gains) and not holds(int(lost), int(gains[enough]), n, margin, alpha):
            enough += 1
        total += float(chance[row, enough:].sum())
    return total


@dataclass(frozen=True)
class Graded:
    """What differences of scores of any kind are taken to be like.

    Args:
        loss: their true mean, turned round.
        spread: their standard deviation, above 0.
        size: examples of a context.
        shared: correlation of those that share one.
    """

    loss: float
    spread: float
    size: float = 1.0
    shared: float = 0.0

    def evidence(self, n: int) -> BoundedMean:
        """What about `n` examples would show."""
        deviation = self.spread * math.sqrt(self.size * (1 + (self.size - 1) * self.shared))
        two = BoundedMean(
            math.ceil(2 * self.size),
            -self.loss,
            np.array([deviation, -deviation]),
            np.full(2, self.size),
        )
        return two.grown(n / two.n)

    def power(self, n: int, margin: float, alpha: float) -> float:
        """The chance that `n` examples hold `margin`."""
        evidence = self.evidence(n)
        error = math.sqrt(evidence.variance / n)
        return float(ndtr((lower_limit(evidence, alpha / 2) + margin) / error))

    def fewest(self, margin: float, alpha: float, power: float) -> int | None:
        """The least number that holds `margin` with a power; None above 100,000."""
        low, high = 0, fewest(margin, alpha)
        while self.power(high, margin, alpha) < power:
            low, high = high, 2 * high
            if high > MOST:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            enough = self.power(middle, margin, alpha) >= power
            low, high = (low, middle) if enough else (middle, high)
        return high


def holds(losses: int, gains: int, n: int, margin: float, alpha: float) -> bool:
    """Whether this outcome holds the margin (an impossible one does not matter: True)."""
    return losses + gains > n or p_holds(BinaryPairs(losses, gains, n), margin) < alpha / 2


def trinomial(
    n: int, losses: np.ndarray, gains: np.ndarray, loss: float, gain: float
) -> np.ndarray:
    """Chances of (losses, gains) in `n` draws, broadcast; 0 where they exceed n."""
    rest = np.maximum(n - losses - gains, 0)
    ways = gammaln(n + 1) - gammaln(losses + 1) - gammaln(gains + 1) - gammaln(rest + 1)
    logs = ways + xlogy(losses, loss) + xlogy(gains, gain) + xlogy(rest, max(1 - loss - gain, 0.0))
    return np.where(losses + gains <= n, np.exp(logs), 0.0)


def likely_counts(n: int, rate: float) -> np.ndarray:
    """The counts a binomial draw can be expected to give, all within seven deviations."""
    spread = 7 * math.sqrt(n * rate * (1 - rate)) + 7 * (rate > 0)
    return np.arange(
        max(0, math.floor(n * rate - spread)), min(n, math.ceil(n * rate + spread)) + 1
    )
