"""Scores that lie between two bounds: each verdict by the reading that makes it hardest.

`holds` by the reading against the treatment: the most that the control's scores can be, and the
least that the treated can. `breaks` by the one in its favour. Whatever the exact scores are, they
lie between, and so does their difference: a verdict is wrong no more often than one of exact
scores, and the interval, from the lower limit of the one to the upper limit of the other, covers no
less often (Horowitz and Manski 2000, of means whose values are known between bounds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pytest_kvbench.analyse.cell import CellResult, judge_cell, verdict_of
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.rows import Together

APART = "scores are known between bounds, and no number of examples decides between these"

P = TypeVar("P", bound=Pairs)
Judge = Callable[[Sequence[P]], CellResult]


@dataclass(frozen=True)
class Rule:
    """How pairs are judged: see `cell.judge_cell`, whose arguments these are."""

    margin: float
    alpha: float
    anytime: bool = False
    retain: float | None = None
    room: float = 1.0


def judge_one(pairs: Pairs, rule: Rule) -> CellResult:
    """The verdict on one cell, by `judge_cell`."""

    def judge(bins: Sequence[Pairs]) -> CellResult:
        (one,) = bins
        return judge_cell(one.control, one.treated, one.clusters, largest=one.largest, **vars(rule))

    return _read([pairs], judge, rule)


def judge_bins(bins: Sequence[Pairs], rule: Rule, family: int | None = None) -> CellResult:
    """The verdict on the mean of bins, by `judge_pooled`."""
    return _read(bins, lambda some: judge_pooled(some, family=family, **vars(rule)), rule)


def _read(bins: Sequence[Pairs], judge: Judge[Pairs], rule: Rule) -> CellResult:
    """What a judge says of one cell or more; of exact scores it is asked once."""
    result = judge(bins)
    if all(pairs.is_exact for pairs in bins):
        return result
    worst, best = judge([pairs.worst for pairs in bins]), judge([pairs.best for pairs in bins])
    return _between(result, worst, best, rule)


def _between(result: CellResult, worst: CellResult, best: CellResult, rule: Rule) -> CellResult:
    low, high, holds, breaks = worst.delta, best.delta, worst.p_holds, best.p_breaks
    if low is None or high is None or holds is None or breaks is None:
        return result
    found = replace(
        result,
        ci_low=worst.ci_low,
        ci_high=best.ci_high,
        together=tuple(map(_together, worst.together, best.together)),
        p_holds=holds,
        p_breaks=breaks,
        bounds=(low, high),
        verdict=verdict_of(holds, breaks, rule.alpha),
        needed=None,
    )
    if found.verdict != "undetermined":
        return found
    if low > -rule.margin:
        return replace(found, needed=worst.needed)
    return (
        replace(found, needed=best.needed) if high < -rule.margin else replace(found, reason=APART)
    )


def _together(worst: Together, best: Together) -> Together:
    return {**worst, "ci_high": best["ci_high"]}
