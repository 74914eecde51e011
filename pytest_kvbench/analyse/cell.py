"""One cell against its control: numbers in, a verdict out. Needs numpy and scipy.special only.

The same two steps serve a pytest item, the controller and `kvbench judge`: choose the evidence that
fits the data, then ask it for an interval and one p-value per direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import bdtr

from pytest_kvbench.analyse.betting import betting_of
from pytest_kvbench.analyse.binary import BinaryPairs
from pytest_kvbench.analyse.bounded import BoundedMean
from pytest_kvbench.analyse.contexts import ContextPairs
from pytest_kvbench.analyse.evidence import Evidence, interval, p_breaks, p_holds
from pytest_kvbench.analyse.power import fewest, more_needed
from pytest_kvbench.records import VerdictWord
from pytest_kvbench.rows import Together

TIPPED = "the answers hold the margin, but not if the pairs lost to failures count as losses"
FAMILIES = (1, 8, 64)  # how many groups of one family a choice may be made from
CORRECT = 0.5  # a control score from here on counts as an answer that could be retained


@dataclass(frozen=True)
class CellResult:
    """What one cell says.

    `delta` = treated - control; the interval is at 1 - alpha, and of a row that may be chosen among
    others there are wider ones, each for so many rows `together`.
    `p_holds` and `p_breaks` are the one-sided p-values behind the verdict, each to be held against
    alpha / 2 (or its correction).
    `bounds` are those of `delta`, where scores are known between bounds (see `readings`).
    `losses` and `gains` count examples that got worse or better; `p_mcnemar` is the exact sign test
    on them, descriptive only. `retention` is the mean treated score where the control scored 0.5 or
    more. `needed` is how many more examples would decide (None: decided, no number
    would, or only more contexts can).
    A cell without pairs has None everywhere and says why in `reason`.
    """

    n: int
    clusters: int
    control_mean: float | None
    treated_mean: float | None
    delta: float | None
    ci_low: float | None
    ci_high: float | None
    losses: int
    gains: int
    method: str
    verdict: VerdictWord
    p_holds: float | None = None
    p_breaks: float | None = None
    together: tuple[Together, ...] = ()
    p_mcnemar: float | None = None
    retention: float | None = None
    needed: int | None = None
    reason: str = ""
    bounds: tuple[float, float] | None = None


def not_measured(reason: str) -> CellResult:
    """A cell that says nothing, and why."""
    return CellResult(
        0, 0, None, None, None, None, None, 0, 0, "none", "not-measured", reason=reason
    )


def judge_cell(
    control: Sequence[float] | np.ndarray,
    treated: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray,
    *,
    margin: float,
    alpha: float,
    anytime: bool = False,
    largest: int = 1,
    retain: float | None = None,
    room: float = 1.0,
) -> CellResult:
    """Judge paired scores.

    Args:
        control: shape (n,), the control's scores in [0, 1], averaged over replicates.
        treated: shape (n,), the same examples under treatment, in the same order.
        clusters: shape (n,), integers or strings; equal where examples share a context.
        margin: the loss that is still acceptable.
        alpha: two-sided level of the interval; the verdict uses alpha / 2 in each direction.
        anytime: the pairs stopped when it pleased: the interval must stay valid for that.
        largest: examples of the largest cluster there is, where that may not have been drawn yet.
        retain: the share of the control's score to keep, in place of a margin.
        room: how far a treated score can be above its control's, where that is known beforehand.

    Returns:
        The verdict with all it rests on; `not-measured` for n = 0. Nothing is drawn at random.

    Raises:
        ValueError: shapes differ, or a score is NaN or outside [0, 1].
    """
    control, treated, codes = checked(control, treated, clusters)
    if not len(control):
        return not_measured("no pair of answers was measured")
    kept = shared(control, retain)
    evidence = evidence_of(kept, treated, codes, anytime=anytime, largest=largest, room=room)
    bar = Bar.of(margin, retain, float(control.mean()))
    return summarise(evidence, control, treated, codes, bar=bar, alpha=alpha)


def shared(control: np.ndarray, retain: float | None) -> np.ndarray:
    """The scores that a treatment must reach: the control's, or a share of them."""
    return control if retain is None else retain * control


@dataclass(frozen=True)
class Bar:
    """What a difference is held against.

    Args:
        margin: the loss that is still acceptable; 0 where a share of the control must be reached.
        shift: what that share takes from the control's mean, so that a difference from it becomes
            one from the control.
    """

    margin: float
    shift: float = 0.0

    @classmethod
    def of(cls, margin: float, retain: float | None, control_mean: float) -> Bar:
        """A margin in score units, or none below a share of the control."""
        return cls(margin) if retain is None else cls(0.0, (1 - retain) * control_mean)


def checked(control: Any, treated: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three columns as arrays, clusters coded 0, 1, 2 ... without gaps.

    Raises:
        ValueError: shapes differ, or a score is NaN or outside [0, 1].
    """
    control, treated = np.asarray(control, dtype=float), np.asarray(treated, dtype=float)
    labels = np.asarray(clusters)
    if not control.shape == treated.shape == labels.shape or control.ndim != 1:
        shapes = f"{control.shape}, {treated.shape}, {labels.shape}"
        raise ValueError(
            f"control, treated and clusters must be 1-d and of one length, not {shapes}"
        )
    for name, scores in (("control", control), ("treated", treated)):
        valid = (scores >= 0) & (scores <= 1)  # False for NaN too
        if not valid.all():
            raise ValueError(f"{name} holds {scores[~valid][0]}; scores must be numbers in [0, 1]")
    return control, treated, np.unique(labels, return_inverse=True)[1]


def evidence_of(
    control: np.ndarray,
    treated: np.ndarray,
    codes: np.ndarray,
    *,
    anytime: bool = False,
    largest: int = 1,
    room: float = 1.0,
) -> Evidence:
    """The method that fits: exact-tail score for right-or-wrong pairs, else bounded.

    Pairs that share contexts of nearly one size have a rule of their own; where sizes differ, what
    is lost may go with them, and the bounded mean weighs it by the largest; of what was not seen
    nothing gained more than the `room` there is.
    Where sampling stopped when it pleased: betting.
    """
    if anytime:
        return betting_of(treated - control, codes, largest)
    if is_binary(control, treated, codes):
        return counted(control, treated)
    if are_right_or_wrong(control, treated) and ContextPairs.fits(codes):
        return ContextPairs.of(control, treated, codes)
    delta, codes = differences(control, treated, codes)
    estimate = float(delta.mean())
    totals = np.bincount(codes, weights=delta - estimate)
    found = BoundedMean(len(codes), estimate, totals, np.bincount(codes).astype(float))
    return found.below(ceiling_of(control, room))


def ceiling_of(control: np.ndarray, room: float) -> float:
    """The largest difference there can be: `room`, unless a control belies it."""
    return room if bool((control >= 1 - room).all()) else 1.0


def is_binary(control: np.ndarray, treated: np.ndarray, codes: np.ndarray) -> bool:
    """Whether these are right-or-wrong scores of independent examples."""
    return bool(codes.max() + 1 == len(codes)) and are_right_or_wrong(control, treated)


def are_right_or_wrong(control: np.ndarray, treated: np.ndarray) -> bool:
    """Whether every score is 0 or 1."""
    scores = np.concatenate([control, treated])
    return bool(((scores == 0) | (scores == 1)).all())


def counted(control: np.ndarray, treated: np.ndarray) -> BinaryPairs:
    """The pairs by what became of them."""
    return BinaryPairs(
        losses=int((treated < control).sum()),
        gains=int((treated > control).sum()),
        n=len(control),
    )


def differences(
    control: np.ndarray, treated: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Treated minus control, ascending, with the clusters' codes in the same order.

    A sum's last digit depends on the order of its terms; a verdict must not depend on that of rows.
    """
    delta = treated - control
    order = np.argsort(delta)
    return delta[order], codes[order]


def summarise(
    evidence: Evidence,
    control: np.ndarray,
    treated: np.ndarray,
    codes: np.ndarray,
    *,
    bar: Bar,
    alpha: float,
    family: int | None = None,
) -> CellResult:
    """The result of a cell whose evidence is already chosen. Arrays of shape (n,), n > 0.

    Of one of a `family` of so many, with intervals that cover whichever of them is chosen, and
    whichever of so many times as many.
    """
    ci_low, ci_high = interval(evidence, alpha)
    margin = bar.margin
    holds, breaks = p_holds(evidence, margin), p_breaks(evidence, margin)
    verdict = verdict_of(holds, breaks, alpha)
    losses, gains = int((treated < control).sum()), int((treated > control).sum())
    could = control >= CORRECT
    return CellResult(
        n=len(control),
        clusters=int(codes.max()) + 1,
        control_mean=float(control.mean()),
        treated_mean=float(treated.mean()),
        delta=evidence.estimate - bar.shift,
        ci_low=ci_low - bar.shift,
        ci_high=ci_high - bar.shift,
        losses=losses,
        gains=gains,
        method=evidence.method,
        verdict=verdict,
        p_holds=holds,
        p_breaks=breaks,
        together=for_many(evidence, alpha, family, bar.shift) if family else (),
        p_mcnemar=min(1.0, 2 * float(bdtr(min(losses, gains), losses + gains, 0.5))),
        retention=float(treated[could].mean()) if could.any() else None,
        needed=more_needed(evidence, margin, alpha)
        if verdict == "undetermined" and examples_help(evidence, codes, margin, alpha)
        else None,
    )


def for_many(evidence: Evidence, alpha: float, family: int, shift: float) -> tuple[Together, ...]:
    """Bonferroni's intervals for a family, and for several alike from which one is chosen."""
    sizes = [family * times for times in FAMILIES]
    found = ((rows, interval(evidence, alpha / rows)) for rows in sizes)
    return tuple(
        {"rows": rows, "ci_low": low - shift, "ci_high": high - shift}
        for rows, (low, high) in found
    )


def examples_help(evidence: Evidence, codes: np.ndarray, margin: float, alpha: float) -> bool:
    """Whether more examples of the contexts at hand could decide; else only more contexts can.

    A margin cannot be held by fewer contexts than that many examples without a loss, as each may be
    lost whole; unless what was seen tells otherwise (`contexts`).
    """
    contexts = int(codes.max()) + 1
    if contexts == len(codes) or evidence.estimate <= -margin or not margin:
        return True
    return contexts >= fewest(margin, alpha)


def tipped(result: CellResult, worst: CellResult, alpha: float) -> CellResult:
    """The same, holding only if it does as well were every lost pair a loss.

    Args:
        result: of the pairs that have both scores.
        worst: of these and those that were lost to failures, each as right under the control and
            wrong under treatment.
        alpha: two-sided level.
    """
    if result.p_holds is None or result.p_breaks is None or worst.p_holds is None:
        return result
    holds = max(result.p_holds, worst.p_holds)
    verdict = verdict_of(holds, result.p_breaks, alpha)
    if verdict == result.verdict:
        return replace(result, p_holds=holds)
    return replace(result, p_holds=holds, verdict=verdict, needed=worst.needed, reason=TIPPED)


def verdict_of(holds: float, breaks: float, alpha: float) -> VerdictWord:
    """The verdict of two one-sided p-values at alpha / 2 each."""
    if holds < alpha / 2:
        return "holds"
    return "breaks" if breaks < alpha / 2 else "undetermined"
