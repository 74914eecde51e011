"""How often the rows and cells of a plan will hold, by simulation of the rules that judge them.

Right-or-wrong pairs; arms are alike and independent. A cell of a ladder sampled in rounds is looked
at as often as a real one, with the levels that decided cells hand on. That it is given up early,
where not even good luck would decide it, is left out: it costs no verdict that two standard errors
of luck would not have brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_kvbench.analyse.betting import FRACTIONS, WEIGHTS, Betting, StratifiedBetting
from pytest_kvbench.analyse.evidence import p_holds
from pytest_kvbench.analyse.layout import Layout, fewest_that
from pytest_kvbench.analyse.multiplicity import adjusted, fallback
from pytest_kvbench.analyse.pooled import Stratum, over_bins
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.sequential import FEWEST_PER_ROUND, ROUND_SHARE, Limits

DRAWS = 200
DRAWS_OF_A_SIZE = 80  # where many sizes are tried
ROWS_IN_ROUNDS = 40  # each is a search over all choices of differences: see `StratifiedBetting`

Random = np.random.Generator


@dataclass(frozen=True)
class Truth:
    """What pairs are taken to be like.

    Args:
        discordance: share of examples whose score differs between the arms, [|delta|, 1].
        delta: the true difference.
        shared: correlation of pairs that share a context, [0, 1].
    """

    discordance: float
    delta: float = 0.0
    shared: float = 0.0

    @property
    def rates(self) -> np.ndarray:
        """Of losses, gains and the rest."""
        loss, gain = (self.discordance - self.delta) / 2, (self.discordance + self.delta) / 2
        return np.array([loss, gain, 1 - loss - gain]).clip(0.0, 1.0)

    def drawn(self, random: Random, arms: int, sizes: np.ndarray) -> np.ndarray:
        """Losses, gains and the rest of each context: shape (arms, contexts, 3)."""
        shape, rates, number = (arms, len(sizes)), self.rates, sizes
        if self.shared >= 1:
            number = np.ones_like(sizes)
        elif self.shared > 0:
            weights = np.maximum(rates, 1e-9) * (1 - self.shared) / self.shared
            rates = random.standard_gamma(weights, size=(*shape, 3)) + 1e-300
            rates = rates / rates.sum(axis=-1, keepdims=True)
        drawn: np.ndarray = random.multinomial(number, rates, size=shape)
        drawn *= (sizes // number)[:, None]
        return drawn


# -- a fixed number of examples --------------------------------------------------------------------


def power_of_rows(
    layout: Layout, truth: Truth, rules: Rules, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """The share of a family's rows that hold, by the rules' correction; its error is 0.03."""
    random = np.random.default_rng(seed)
    p = [p_of_row(random, layout, truth, rules.margin) for _ in range(draws)]
    return held_in_family(random, p, layout.rows, rules)


def p_of_row(random: Random, layout: Layout, truth: Truth, margin: float) -> float:
    """The p-value of `holds` of one row."""
    strata = [stratum_of(truth.drawn(random, 1, np.array(sizes))[0]) for sizes in layout.bins]
    return p_holds(over_bins(strata), margin)


def stratum_of(counts: np.ndarray) -> Stratum:
    """Scores of contexts whose losses, gains and rest were counted, shape (contexts, 3)."""
    control, treated = np.tile([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], len(counts))
    each, sizes = counts.ravel(), counts.sum(axis=1)
    return control.repeat(each), treated.repeat(each), np.arange(len(counts)).repeat(sizes)


def held_in_family(random: Random, p: Sequence[float], rows: int, rules: Rules) -> float:
    """The share that holds in families of `rows` such p-values."""
    families = random.choice(p, size=(DRAWS, rows))
    shares = [
        np.array(adjusted(list(f), rows, rules.correction)) < rules.alpha / 2 for f in families
    ]
    return float(np.mean(shares))


def size_for(layout: Layout, truth: Truth, rules: Rules, power: float) -> int | None:
    """About the fewest examples per bin that reach a power, contexts of the sizes at hand."""

    def enough(n: int) -> bool:
        return power_of_rows(layout.grown(n), truth, rules, draws=DRAWS_OF_A_SIZE) >= power

    return fewest_that(enough, layout.n / len(layout.bins))


# -- sampling in rounds ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sampled:
    """A bin's ladder when it stopped: of each arm the totals of its contexts, drawn or not.

    `contexts` says how many of them were drawn, `held` whether the cell holds; shape (arms,).
    """

    totals: np.ndarray
    sizes: np.ndarray
    contexts: np.ndarray
    held: np.ndarray

    def evidence(self, arm: int) -> Betting:
        """What one arm's pairs say."""
        drawn, largest = int(self.contexts[arm]), float(self.sizes.max())
        sizes = self.sizes[:drawn].astype(float)
        totals = self.totals[arm, :drawn].astype(float)
        return Betting(int(sizes.sum()), totals, sizes, largest=largest)


def power_in_rounds(
    sizes: Sequence[int], limits: Limits, arms: int, truth: Truth, *, seed: int = 0
) -> float:
    """The share of a ladder's cells that hold; its error is at most 0.035.

    Args:
        sizes: of a bin's contexts, in drawing order.
        limits: margin, error of each cell, and how many examples at least and at most.
        arms: cells of the ladder.
        truth: of every cell.
        seed: of the simulation.
    """
    random = np.random.default_rng(seed)
    ladders = (sampled(random, np.array(sizes), limits, arms, truth) for _ in range(DRAWS))
    return float(np.mean([ladder.held for ladder in ladders]))


def power_of_rows_in_rounds(
    layout: Layout, limits: Limits, arms: int, truth: Truth, rules: Rules, *, seed: int = 0
) -> float:
    """As `power_of_rows`, where each bin's ladder of `arms` cells is sampled in rounds."""
    random, p = np.random.default_rng(seed), list[float]()
    for draw in range(ROWS_IN_ROUNDS):
        arm = draw % arms
        bins = [sampled(random, np.array(b), limits, arms, truth) for b in layout.bins]
        strata = [ladder.evidence(arm) for ladder in bins]
        evidence = StratifiedBetting(strata) if len(strata) > 1 else strata[0]
        p.append(p_holds(evidence, limits.margin))
    return held_in_family(random, p, layout.rows, rules)


def sampled(random: Random, sizes: np.ndarray, limits: Limits, arms: int, truth: Truth) -> Sampled:
    """One ladder, drawn until its cells hold or nothing is left."""
    losses, gains, _ = np.moveaxis(truth.drawn(random, arms, sizes), -1, 0)
    seen = looks(sizes, limits)
    looked = _stopped_at(_p_values(gains - losses, sizes, seen, limits.margin), limits.alpha)
    held = looked < len(seen)
    return Sampled(gains - losses, sizes, seen[np.minimum(looked, len(seen) - 1)], held)


def looks(sizes: np.ndarray, limits: Limits) -> np.ndarray:
    """After how many contexts a group is judged."""
    ends = np.cumsum(sizes)
    most = int(np.searchsorted(ends, min(limits.most, ends[-1]))) + 1
    found = [min(int(np.searchsorted(ends, limits.least)) + 1, most)]
    while found[-1] < most:
        n = int(ends[found[-1] - 1])
        following = np.searchsorted(ends, n + max(FEWEST_PER_ROUND, n // ROUND_SHARE))
        found.append(min(int(following) + 1, most))
    return np.array(found)


def _p_values(totals: np.ndarray, sizes: np.ndarray, seen: np.ndarray, margin: float) -> np.ndarray:
    """P-values of holds by look and arm."""
    gains = (totals + margin * sizes) / (sizes.max() * (1 - margin))
    wins = np.cumsum(np.log1p(gains[..., None] * FRACTIONS), axis=1)[:, seen - 1]
    wealth = np.exp(np.minimum(wins, 600)) @ WEIGHTS
    p: np.ndarray = np.minimum(1.0, 1 / np.maximum(wealth, 1e-300)).T
    return p


def _stopped_at(p: np.ndarray, alpha: float) -> np.ndarray:
    """The look at which each arm held, their number where none; it keeps the p-value it had."""
    kept, looked = np.ones(p.shape[1]), np.full(p.shape[1], len(p))
    for look, now in enumerate(p):
        kept = np.where(looked < len(p), kept, now)
        levels = np.array(fallback(list(kept[::-1]), alpha)[::-1])
        looked = np.where((looked == len(p)) & (kept < levels / 2), look, looked)
    return looked
