"""The row over all bins of a task: the mean of the bins, each with equal weight.

The variance is that within bins (stratified): how far the bins lie apart is no uncertainty of their
mean. Each cluster enters the bounded mean of `bounded` with its deviations from its own bin's mean,
scaled by sqrt(k / (k - 1)) for the k clusters that mean was estimated from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from pytest_kvbench.analyse.betting import StratifiedBetting, betting_of
from pytest_kvbench.analyse.bounded import BoundedMean
from pytest_kvbench.analyse.cell import (
    Bar,
    CellResult,
    ceiling_of,
    checked,
    counted,
    differences,
    evidence_of,
    is_binary,
    not_measured,
    shared,
    summarise,
)
from pytest_kvbench.analyse.evidence import Evidence
from pytest_kvbench.analyse.strata import StratifiedPairs

Stratum = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Control, treated and the clusters' codes, as `checked` gives them."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """One cell's paired scores in [0, 1], and the ids of their clusters; shape (n,) each.

    `largest`: examples of the largest cluster that there could be, where not all were drawn.
    `control_high`, `treated_high`: the most that scores can be of which the others are then the
    least (see `readings`); None where they are exact.
    """

    control: np.ndarray
    treated: np.ndarray
    clusters: np.ndarray
    largest: int = field(default=1, kw_only=True)
    control_high: np.ndarray | None = field(default=None, kw_only=True)
    treated_high: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def is_exact(self) -> bool:
        """Whether there is one reading of them."""
        return self.control_high is None and self.treated_high is None

    @property
    def worst(self) -> Self:
        """Read against the treatment."""
        return self if self.control_high is None else replace(self, control=self.control_high)

    @property
    def best(self) -> Self:
        """Read in its favour."""
        return self if self.treated_high is None else replace(self, treated=self.treated_high)


def judge_pooled(
    bins: Sequence[Pairs],
    *,
    margin: float,
    alpha: float,
    anytime: bool = False,
    family: int | None = None,
    retain: float | None = None,
    room: float = 1.0,
) -> CellResult:
    """Judge the equal-weight mean of the bins; empty bins are left out.

    One bin is judged exactly as its own cell is. A cluster is one within its bin. Where a `family`
    is named, with an interval that holds for so many such rows together.

    Raises:
        ValueError: as `judge_cell`.
    """
    bins = [b for b in bins if len(b.control)]
    strata = [checked(b.control, b.treated, b.clusters) for b in bins]
    if not strata:
        return not_measured("no bin was measured")
    control, treated = (np.concatenate([s[i] for s in strata]) for i in (0, 1))
    starts = np.cumsum([0, *(s[2].max() + 1 for s in strata[:-1])])
    codes = np.concatenate([s[2] + start for s, start in zip(strata, starts, strict=True)])
    kept = [(shared(c, retain), t, code) for c, t, code in strata]
    evidence = over_bins(kept, anytime=anytime, largest=[b.largest for b in bins], room=room)
    control_mean = float(np.mean([s[0].mean() for s in strata]))
    bar = Bar.of(margin, retain, control_mean)
    return replace(
        summarise(evidence, control, treated, codes, bar=bar, alpha=alpha, family=family),
        control_mean=control_mean,
        treated_mean=float(np.mean([s[1].mean() for s in strata])),
    )


def over_bins(
    strata: Sequence[Stratum],
    *,
    anytime: bool = False,
    largest: Sequence[int] = (),
    room: float = 1.0,
) -> Evidence:
    """The evidence on the mean of one or more strata; of one, that of its own cell."""
    if len(strata) > 1:
        return stratified(strata, anytime=anytime, largest=largest, room=room)
    scale = largest[0] if largest else 1
    return evidence_of(*strata[0], anytime=anytime, largest=scale, room=room)


def stratified(
    strata: Sequence[Stratum],
    *,
    anytime: bool = False,
    largest: Sequence[int] = (),
    room: float = 1.0,
) -> Evidence:
    """The evidence on the mean of two or more strata, each as `checked` gives it.

    Right-or-wrong scores of independent examples: the rule of `strata`. Else the bounded mean:
    where a stratum has one cluster, nothing is known of the variance within it: then deviations are
    taken from the overall mean, which can only widen the interval. Where sampling stopped when it
    pleased: betting, scaled to the `largest` cluster of each stratum.
    """
    if anytime:
        scales = largest or [1] * len(strata)
        bets = ((t - c, codes, scale) for (c, t, codes), scale in zip(strata, scales, strict=True))
        return StratifiedBetting([betting_of(*bet) for bet in bets])
    if all(is_binary(*stratum) for stratum in strata):
        return StratifiedPairs.of([counted(*stratum[:2]) for stratum in strata])
    deltas, codes = zip(*(differences(*stratum) for stratum in strata), strict=True)
    total = sum(len(d) for d in deltas)
    means = [float(d.mean()) for d in deltas]
    overall = float(np.mean(means))
    counts = [int(c.max()) + 1 for c in codes]
    centred = min(counts) > 1
    residuals, sizes = [], []
    for delta, code, mean, k in zip(deltas, codes, means, counts, strict=True):
        weight = total / (len(deltas) * len(delta))
        deviation = (delta - mean) * np.sqrt(k / (k - 1)) if centred else delta - overall
        residuals.append(weight * np.bincount(code, weights=deviation))
        sizes.append(weight * np.bincount(code))
    found = BoundedMean(
        total,
        overall,
        np.concatenate(residuals),
        np.concatenate(sizes),
        method="bounded mean, bins as strata",
    )
    return found.below(max(ceiling_of(control, room) for control, *_ in strata))
