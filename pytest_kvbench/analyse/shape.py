"""The shape of a budget curve, in one word that its data support."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pytest_kvbench.analyse.cell import checked, evidence_of
from pytest_kvbench.analyse.evidence import Evidence
from pytest_kvbench.analyse.ladder import CellPairs, Ladder
from pytest_kvbench.analyse.monotone import isotonic
from pytest_kvbench.analyse.pooled import stratified
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.records import VerdictWord

Shape = Literal["cliff", "slope", "flat", "non-monotone", "undetermined"]
Rungs = Sequence[tuple[float, CellPairs]]
Words = Sequence[tuple[float, VerdictWord]]
"""(budget, verdict) of a ladder, ascending, those not measured included."""

CLIFF_SHARE = 2 / 3  # of the whole drop, within one step of the ladder
FEWEST_RUNGS = 3  # with two, most of the drop falls into one step on nearly every curve


def shape_of(
    steps: Words,
    ladder: Ladder | None,
    bins: Sequence[Rungs],
    rules: Rules,
) -> Shape:
    """The shape of one ladder.

    non-monotone: a smaller budget is better than a larger one, by Bonferroni over all pairs.
    flat: every budget holds. cliff / slope: the smallest budgets break, and two thirds of the whole
    drop, or less, fall into one step (control included) of three measured budgets or more.
    undetermined: none of these.
    """
    if ladder is None:
        return "undetermined"
    if reversals(ladder, bins, rules):
        return "non-monotone"
    if all(word == "holds" for _, word in steps):
        return "flat"
    if steps[0][1] != "breaks" or len(ladder.budgets) < FEWEST_RUNGS:
        return "undetermined"
    fit = np.append(isotonic(ladder.seen[None, :])[0], 0.0)
    drops = np.diff(fit)
    if drops.max() < CLIFF_SHARE * (fit[-1] - fit[0]):
        return "slope"
    return "undetermined" if spans(int(drops.argmax()), ladder, steps) else "cliff"


def spans(step: int, ladder: Ladder, planned: Words) -> bool:
    """Whether budgets of the plan that were not measured lie within a step of the ladder."""
    low, high = [*ladder.budgets, 1.0][step : step + 2]
    return any(low < budget < high for budget, _ in planned)


def reversals(ladder: Ladder, bins: Sequence[Rungs], rules: Rules) -> list[tuple[float, float]]:
    """The (smaller, larger) budgets where the smaller is better, at alpha / 2 over all pairs."""
    pairs = list(itertools.combinations(range(len(ladder.budgets)), 2))
    suspects = [(i, j) for i, j in pairs if ladder.seen[i] > ladder.seen[j]]
    named = [(float(ladder.budgets[i]), float(ladder.budgets[j])) for i, j in suspects]
    return [
        (small, large)
        for small, large in named
        if (evidence := between(bins, small, large, anytime=rules.anytime))
        and evidence.p_above(0.0) < rules.alpha / 2 / len(pairs)
    ]


def between(
    bins: Sequence[Rungs], small: float, large: float, *, anytime: bool = False
) -> Evidence | None:
    """The evidence on score at `small` minus score at `large`; None without a common example."""
    ladders = [dict(rungs) for rungs in bins]
    strata = [common(at[small], at[large]) for at in ladders if small in at and large in at]
    strata = [stratum for stratum in strata if len(stratum[0])]
    if len(strata) > 1:
        return stratified(strata, anytime=anytime)
    return evidence_of(*strata[0], anytime=anytime) if strata else None


def common(small: CellPairs, large: CellPairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score at large, score at small, cluster codes) of the examples that both cells have.

    Of scores between bounds the most at large and the least at small: see `readings`.
    """
    _, left, right = np.intersect1d(small.examples, large.examples, return_indices=True)
    return checked(large.best.treated[right], small.treated[left], small.clusters[left])
