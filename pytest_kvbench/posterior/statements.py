"""What a posterior says: of every policy at every task and length, of two policies side by side.

A transition is given as ladder steps, its 90% interval rounded outward: where inside a step a cliff
lies nothing but the curve's assumed shape decides, and intervals that pretended otherwise covered
.59 of planted cliffs (rounded outward .97 to 1.00). What lies between rungs is said to be
interpolated. A curve that is not monotone has its losses alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_kvbench.posterior.check import MISFIT
from pytest_kvbench.posterior.curves import Curves
from pytest_kvbench.posterior.draws import flat
from pytest_kvbench.posterior.shape import loss, share_broken

if TYPE_CHECKING:
    import arviz as az

INTERVAL = (0.05, 0.95)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A task at prompts of `low` to `high` tokens."""

    task: str
    low: int
    high: int


@dataclass(frozen=True)
class AtBudget:
    """The loss at one budget.

    Attributes:
        loss: posterior mean of control - treated; low, high: 90% interval.
        below_margin: P(loss < margin).
        interpolated: no group measured this budget; the curve's shape alone speaks.
        pairs: measured here, over groups.
    """

    budget: float
    loss: float
    low: float
    high: float
    below_margin: float
    interpolated: bool
    pairs: int


@dataclass(frozen=True)
class Step:
    """How likely the loss first reaches the margin between two neighbouring budgets.

    `upper` None: at no budget of the ladder. `upper` 1.0: already at the largest treated budget.
    """

    upper: float | None
    lower: float | None
    probability: float


@dataclass(frozen=True)
class Statement:
    """One policy at one place, over the groups that measured it there, each counting alike.

    Attributes:
        budgets: measured ones and what lies between, descending.
        steps: probabilities of where the margin is crossed; they sum to 1.
        interval: the budgets between which it is with 90%, rounded outward to the ladder; the lower
            one None where that is beyond the ladder. None where the curve is not monotone.
        groups: share of the pairs, by group.
        misfit: how likely so large a recovery is under the model in any of the groups (Bonferroni).
    """

    policy: str
    place: Place
    budgets: tuple[AtBudget, ...]
    steps: tuple[Step, ...]
    interval: tuple[float, float | None] | None
    groups: Mapping[str, float]
    misfit: float


@dataclass(frozen=True)
class Comparison:
    """Two policies at one budget and place, over the groups that measured both.

    Attributes:
        better: P(the first loses less).
        alike: P(their losses differ by less than the margin); a sure `better` beside a sure `alike`
            is a difference that does not matter, and may be the curve's shape.
    """

    place: Place
    budget: float
    first: str
    second: str
    better: float
    alike: float


@dataclass(frozen=True, eq=False)
class Posterior:
    """Curves and their draws, ready to be asked."""

    data: Curves
    trace: az.InferenceData
    misfit: Floats

    def losses(self, curve: int, budgets: Sequence[float]) -> Floats:
        """Draws of a curve's loss at any budgets, shape (draws, budgets)."""
        key, base = self.data.keys[curve], self.data.base[curve]
        octaves = -np.log2(np.array(budgets))
        mu, s, deepest = (self._of(name, curve) for name in ("location", "scale", "depth"))
        broken = share_broken(octaves, mu, s, deepest)
        a, f1, f0 = (self._of(name, base) for name in ("accuracy", "lost", "gained"))
        luck = self._of("luck", self.data.tasks.index(key.task))
        found: Floats = loss(broken, a, f1, f0, luck)
        return found

    def _of(self, name: str, index: int) -> Floats:
        """Draws of one entry of a quantity, as a column."""
        return flat(self.trace, name)[:, index, None]

    def mean_losses(self, curves: Sequence[int], budgets: Sequence[float]) -> Floats:
        """The same of several groups' curves, each counting alike."""
        mean: Floats = np.mean([self.losses(curve, budgets) for curve in curves], axis=0)
        return mean


def statements(posterior: Posterior, margin: float) -> list[Statement]:
    """What is said of every policy at every place, by policy, then place."""
    return [
        _statement(posterior, policy, place, curves, margin)
        for (policy, place), curves in sorted(
            _alike(posterior.data).items(), key=lambda item: (item[0][0], _order(item[0][1]))
        )
    ]


def comparisons(posterior: Posterior, margin: float) -> list[Comparison]:
    """Every two policies at every place and budget where a group measured both."""
    found: list[Comparison] = []
    alike = _alike(posterior.data)
    for place in sorted({place for _, place in alike}, key=_order):
        here = sorted(policy for policy, where in alike if where == place)
        for first, second in itertools.combinations(here, 2):
            sides = (alike[first, place], alike[second, place])
            found += _compared(posterior, place, (first, second), sides, margin)
    return found


def _alike(data: Curves) -> dict[tuple[str, Place], list[int]]:
    """The curves of one policy at one place, a group each."""
    found: dict[tuple[str, Place], list[int]] = {}
    for number, key in enumerate(data.keys):
        place = Place(key.task, key.low, key.high)
        found.setdefault((key.policy, place), []).append(number)
    return found


def _order(place: Place) -> tuple[str, int, int]:
    return place.task, place.low, place.high


def _statement(
    posterior: Posterior, policy: str, place: Place, curves: Sequence[int], margin: float
) -> Statement:
    data = posterior.data
    ladder = sorted({b for c in curves for b in data.ladders[c]}, reverse=True)
    pairs = _pairs(data, curves, ladder)
    between = [float(np.sqrt(high * low)) for high, low in itertools.pairwise([1.0, *ladder])]
    budgets = sorted([*ladder, *between], reverse=True)
    draws = posterior.mean_losses(curves, budgets)
    misfit = min(1.0, len(curves) * float(min(posterior.misfit[c] for c in curves)))
    steps = _steps(posterior.mean_losses(curves, ladder) >= margin, ladder)
    total = sum(data.pairs[c] for c in curves)
    return Statement(
        policy,
        place,
        tuple(_at_budget(b, draws[:, at], margin, pairs.get(b)) for at, b in enumerate(budgets)),
        steps,
        None if misfit < MISFIT else _interval(steps),
        {data.keys[c].group: float(data.pairs[c] / total) for c in curves},
        misfit,
    )


def _pairs(data: Curves, curves: Sequence[int], ladder: Sequence[float]) -> dict[float, int]:
    """How many groups' pairs each budget of the ladder rests on."""
    return {b: int(sum(data.pairs[c] for c in curves if b in data.ladders[c])) for b in ladder}


def _at_budget(budget: float, draws: Floats, margin: float, pairs: int | None) -> AtBudget:
    low, high = np.quantile(draws, INTERVAL)
    below = float((draws < margin).mean())
    mean = float(draws.mean())
    return AtBudget(budget, mean, float(low), float(high), below, pairs is None, pairs or 0)


def _steps(is_lost: NDArray[np.bool_], ladder: Sequence[float]) -> tuple[Step, ...]:
    first = np.where(is_lost.any(axis=1), is_lost.argmax(axis=1), len(ladder))
    share = np.bincount(first, minlength=len(ladder) + 1) / len(is_lost)
    inside = itertools.pairwise([1.0, *ladder])
    steps = [Step(high, low, float(p)) for (high, low), p in zip(inside, share, strict=False)]
    return (*steps, Step(None, None, float(share[-1])))


def _interval(steps: Sequence[Step]) -> tuple[float, float | None]:
    """The steps that hold the middle 90%, whole."""
    reached = np.cumsum([step.probability for step in steps])
    low, high = (int(np.searchsorted(reached, q - 1e-12)) for q in INTERVAL)
    first, last = steps[min(low, len(steps) - 1)], steps[min(high, len(steps) - 1)]
    smallest = steps[-2].lower if len(steps) > 1 else None
    upper = first.upper if first.upper is not None else smallest
    return (1.0 if upper is None else upper), last.lower


def _compared(
    posterior: Posterior,
    place: Place,
    names: tuple[str, str],
    curves: tuple[Sequence[int], Sequence[int]],
    margin: float,
) -> list[Comparison]:
    data = posterior.data
    groups = [{data.keys[c].group: c for c in side} for side in curves]
    shared = sorted(groups[0].keys() & groups[1].keys())
    both = [(groups[0][g], groups[1][g]) for g in shared]
    ladders = [set(data.ladders[a]) & set(data.ladders[b]) for a, b in both]
    found = []
    for budget in sorted(set().union(*ladders), reverse=True):
        here = [pair for pair, ladder in zip(both, ladders, strict=True) if budget in ladder]
        first, second = (
            posterior.mean_losses(side, [budget])[:, 0] for side in zip(*here, strict=True)
        )
        better = float((first < second).mean() + (first == second).mean() / 2)
        alike = float((np.abs(first - second) < margin).mean())
        found.append(Comparison(place, budget, *names, better, alike))
    return found
