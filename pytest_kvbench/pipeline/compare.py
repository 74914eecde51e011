"""What changed between two sides: cell by cell, and over all bins.

Scores of the same arm are compared with each other, not with their control, so that a control that
got worse is seen too. Where both sides have (nearly) the same examples they are paired, else taken
as two samples. A cell is `worse` or `better` where the difference is shown at one-sided alpha / 2
after Holm's correction, single bins and rows over all bins being two families.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pytest_kvbench.analyse.multiplicity import adjusted
from pytest_kvbench.cellkey import BinKey, CellKey
from pytest_kvbench.errors import UsageError
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline.baseline import Measured, Side, find_baseline, pooled_key
from pytest_kvbench.pipeline.change import Estimate, estimated
from pytest_kvbench.pipeline.comparable import differences, nothing_compared, why_not
from pytest_kvbench.records import SCORE

ENOUGH_IN_COMMON = 0.5
"""Share of the larger side's examples that both must have to be paired."""


@dataclass(frozen=True)
class Change:
    """One row: `change` is corrected; verdicts are each side's own, None for controls."""

    task: str
    bin: BinKey
    variant: str
    policy: str
    policy_now: str
    budget: float
    n_base: int
    n_now: int
    paired: bool
    base: float
    now: float
    estimate: Estimate
    verdict_base: str | None
    verdict_now: str | None
    change: Literal["worse", "better", ""] = ""
    measure: str = SCORE

    @property
    def key(self) -> CellKey:
        """What names its row, by the base's name of the policy."""
        return CellKey(self.task, self.bin, self.variant, self.policy, self.budget, self.measure)

    @property
    def new_break(self) -> bool:
        """Whether it breaks now and did not before."""
        return self.verdict_now == "breaks" != self.verdict_base

    @property
    def fixed_break(self) -> bool:
        """Whether it broke before and does not now."""
        return self.verdict_base == "breaks" != self.verdict_now

    @property
    def regression(self) -> bool:
        """Whether a loss is shown, or what held breaks.

        A break that was undetermined before is none by itself: it may only be better known.
        """
        lost_hold = self.verdict_base == "holds" and self.verdict_now == "breaks"
        return self.change == "worse" or lost_hold

    def to_json(self) -> dict[str, object]:
        """Plain data, the estimate's fields beside the others."""
        row = {**asdict(self), **self.key.columns(), "policy": self.policy}
        if self.measure == SCORE:
            del row["measure"]
        flags = {name: getattr(self, name) for name in ("new_break", "fixed_break", "regression")}
        return {**row, **row.pop("estimate"), **flags}


@dataclass(frozen=True)
class Comparison:
    """What changed between two sides, row by row; `uncompared`: common cells, each with why not."""

    base: str
    now: str
    margin: float
    alpha: float
    changes: tuple[Change, ...]
    renamed: Mapping[str, str]
    differs: Mapping[str, tuple[Any, Any]]
    only_base: tuple[CellKey, ...]
    only_now: tuple[CellKey, ...]
    uncompared: Mapping[CellKey, str]

    @property
    def regressions(self) -> list[Change]:
        """The rows that make the exit code 1."""
        return [change for change in self.changes if change.regression]

    def to_json(self) -> dict[str, object]:
        """Plain data for programs."""
        places = {k: [p.columns() for p in getattr(self, k)] for k in ("only_base", "only_now")}
        changes = [change.to_json() for change in self.changes]
        left = [{**key.columns(), "reason": reason} for key, reason in self.uncompared.items()]
        rows = {**places, "changes": changes, "uncompared": left}
        return {**vars(self), **rows, "regressions": len(self.regressions)}


def compare(
    base: Side,
    now: Side,
    *,
    margin: float = 0.0,
    alpha: float = 0.05,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """Compare two sides.

    Args:
        base: what was.
        now: what is.
        margin: a loss that does not matter, [0, 1).
        alpha: two-sided level of the intervals, of `worse` and `better` together.
        names: what to call the sides, by default their groups.

    Raises:
        UsageError: the sides have no cell or no treated cell in common, or asked for answers of
            other lengths.
        InfrastructureError: what they have in common was not measured.
    """
    renamed = _renamed(base, now)
    was = {_place(cell, {}): cell for cell in base.cells}
    back = {later: former for former, later in renamed.items()}
    is_ = {_place(cell, back): cell for cell in now.cells}
    common = [place for place in was if place in is_]
    if lacking := _nothing_in_common(common, [*was, *is_]):
        raise UsageError(
            f"{base.name} and {now.name} have no {lacking} in common",
            "cells are matched by task, bin, variant, policy and budget",
        )
    uncompared = {
        place: reason for place in common if (reason := why_not(base, now, was[place], is_[place]))
    }
    pairs = {place: (was[place], is_[place]) for place in common if place not in uncompared}
    if not pairs:
        raise nothing_compared(base, now, uncompared)
    cells = [_change(place, [pair], margin, alpha) for place, pair in pairs.items()]
    pooled = [
        replace(
            _change(place, members, margin, alpha),
            verdict_base=_pooled_verdict(base, place, place.policy),
            verdict_now=_pooled_verdict(now, place, renamed.get(place.policy, place.policy)),
        )
        for place, members in _over_bins(pairs, {place.pooled for place in uncompared}).items()
    ]
    return Comparison(
        *(names or (base.name, now.name)),
        margin,
        alpha,
        tuple(
            change
            for rows in (pooled, cells)
            for measure in dict.fromkeys(row.measure for row in rows)
            for change in _corrected([row for row in rows if row.measure == measure], alpha)
        ),
        {former: later for former, later in renamed.items() if former != later},
        dict(differences(base, now)),
        tuple(place for place in was if place not in is_),
        tuple(place for place in is_ if place not in was),
        uncompared,
    )


def against(reports: Path, name: str, now: Side) -> Comparison:
    """Compare a side with the baseline of a name.

    Raises:
        UsageError: there is no such baseline, it lacks the group, or no cell is in both.
    """
    base = find_baseline(reports, name, now.name)
    if base is None:
        raise UsageError(
            f"baseline {name} has no group {now.name}: not compared",
            f"put it there: {command(f'save {name}', reports / now.name)}",
        )
    return compare(base, now, names=(f"baseline {name}", now.name))


def why_kept(found: Comparison | None, lacking: str, *, partial: bool) -> str:
    """Why a run does not take the place of the baseline that it was compared with, or "".

    Args:
        found: None where they could not be compared.
        lacking: which of its cells were not measured.
        partial: whether cells of its plan are missing.
    """
    if found is None:
        return "this run could not be compared with it"
    if found.regressions:
        return "this run is worse"
    return lacking or ("this run is partial" if partial else "")


def _nothing_in_common(common: Sequence[CellKey], every: Sequence[CellKey]) -> str:
    """What is lacking, in words: full caches alone say nothing of the arms beside them."""
    if not common:
        return "cell"
    treats = any(not place.is_control for place in every)
    return "treated cell" if treats and all(place.is_control for place in common) else ""


def _place(cell: Measured, back: Mapping[str, str]) -> CellKey:
    """Its key by the base's name of the policy."""
    return cell.key._replace(policy=back.get(cell.key.policy, cell.key.policy))


def _renamed(base: Side, now: Side) -> dict[str, str]:
    """Policies by name; those that only one side has in the order they are listed, if as many."""
    was, is_ = (list(dict.fromkeys(c.key.policy for c in side.cells)) for side in (base, now))
    gone, new = [p for p in was if p not in is_], [p for p in is_ if p not in was]
    same = {policy: policy for policy in was if policy in is_}
    return {**same, **(dict(zip(gone, new, strict=True)) if len(gone) == len(new) else {})}


def _over_bins(
    pairs: Mapping[CellKey, tuple[Measured, Measured]], partial: Collection[CellKey]
) -> dict[CellKey, list[tuple[Measured, Measured]]]:
    """The members of every row over all bins; none of one bin alone, or where it is `partial`."""
    groups: dict[CellKey, list[tuple[Measured, Measured]]] = defaultdict(list)
    for place, pair in pairs.items():
        groups[place.pooled].append(pair)
    return {
        place: members
        for place, members in groups.items()
        if len(members) > 1 and place not in partial
    }


def _pooled_verdict(side: Side, place: CellKey, policy: str) -> str | None:
    return side.pooled.get(pooled_key(place._replace(policy=policy)))


# -- one row -------------------------------------------------------------------------------------


def _change(
    place: CellKey, members: Sequence[tuple[Measured, Measured]], margin: float, alpha: float
) -> Change:
    shared = [sorted(was.scores.keys() & is_.scores.keys()) for was, is_ in members]
    most = sum(max(len(was.scores), len(is_.scores)) for was, is_ in members)
    paired = all(shared) and sum(map(len, shared)) >= ENOUGH_IN_COMMON * most
    if paired:
        members = [
            (_only(was, kept), _only(is_, kept))
            for (was, is_), kept in zip(members, shared, strict=True)
        ]
    first_was, first_is = members[0]
    base, now = (_mean([pair[side] for pair in members]) for side in (0, 1))
    estimate = estimated(members, margin, alpha, paired=paired)
    return Change(
        *place[:4],
        measure=place.measure,
        policy_now=first_is.key.policy,
        budget=place.budget,
        n_base=sum(len(was.scores) for was, _ in members),
        n_now=sum(len(is_.scores) for _, is_ in members),
        paired=paired,
        base=base,
        now=now,
        estimate=replace(estimate, delta=now - base),
        verdict_base=first_was.verdict,
        verdict_now=first_is.verdict,
    )


def _only(cell: Measured, examples: Sequence[str]) -> Measured:
    kept = {example: cell.scores[example] for example in examples}
    highs = {example: high for example, high in cell.highs.items() if example in kept}
    return replace(cell, scores=kept, highs=highs)


def _mean(cells: Sequence[Measured]) -> float:
    return float(np.mean([np.mean(list(cell.scores.values())) for cell in cells]))


def _corrected(family: Sequence[Change], alpha: float) -> list[Change]:
    """The changes of a family, named where they are shown after Holm's correction."""

    def p_values(of: Callable[[Estimate], float]) -> list[float]:
        return adjusted([of(change.estimate) for change in family], len(family), "holm")

    worse, better = p_values(lambda e: e.p_worse), p_values(lambda e: e.p_better)
    return [
        replace(
            change,
            change="worse" if w < alpha / 2 else "better" if b < alpha / 2 else "",
        )
        for change, w, b in zip(family, worse, better, strict=True)
    ]
