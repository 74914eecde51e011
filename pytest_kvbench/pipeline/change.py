"""How an arm's scores changed from one side of a comparison to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_kvbench.analyse.cell import checked, evidence_of
from pytest_kvbench.analyse.evidence import Evidence, interval, p_breaks, p_holds
from pytest_kvbench.analyse.pooled import stratified
from pytest_kvbench.analyse.unpaired import Sample, two_samples
from pytest_kvbench.pipeline.baseline import Measured

Members = Sequence[tuple[Measured, Measured]]


@dataclass(frozen=True)
class Estimate:
    """A difference now - base with its interval; p-values are one-sided."""

    delta: float
    ci_low: float
    ci_high: float
    p_worse: float
    p_better: float


def estimated(members: Members, margin: float, alpha: float, *, paired: bool) -> Estimate:
    """The difference of an arm's mean over bins, now - base.

    Of scores that are known between bounds: better by the reading against what is now, worse by the
    one in its favour, as `analyse.readings` has it.

    Args:
        members: the arm's cells on both sides, a pair a bin.
        margin: a loss that does not matter.
        alpha: two-sided level of the interval.
        paired: whether both have the same examples.
    """
    evidence_on = _paired if paired else _two_samples
    evidence = evidence_on([(was.highest, is_) for was, is_ in members])
    favour = evidence
    if any(cell.highs for pair in members for cell in pair):
        favour = evidence_on([(was, is_.highest) for was, is_ in members])
    low, high = interval(evidence, alpha)[0], interval(favour, alpha)[1]
    worse, better = p_breaks(favour, margin), p_holds(evidence, 0.0)
    return Estimate(evidence.estimate, low, high, worse, better)


def _paired(members: Members) -> Evidence:
    strata = [
        checked(
            [was.scores[e] for e in was.scores],
            [is_.scores[e] for e in was.scores],
            [was.clusters[e] for e in was.scores],
        )
        for was, is_ in members
    ]
    return stratified(strata) if len(strata) > 1 else evidence_of(*strata[0])


def _two_samples(members: Members) -> Evidence:
    def sample(cell: Measured) -> Sample:
        scores = np.array(list(cell.scores.values()))
        return Sample(scores, np.array([cell.clusters[e] for e in cell.scores]))

    return two_samples([(sample(was), sample(is_)) for was, is_ in members])
