"""What an analysis is asked for, and the shape of what it answers.

Free of pandas and scipy: a worker that judges one cell imports this too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.errors import UsageError
from pytest_kvbench.rows import BinStats, CellRow, Efficiency, Integrity, TransitionRow

Correction = Literal["holm", "bh", "none"]
CORRECTIONS: tuple[Correction, ...] = ("holm", "bh", "none")


class BadArm(NamedTuple):
    """An arm of a task that is known to be bad; whether it is also one of those to be judged."""

    task: str
    policy: str
    budget: float
    is_listed: bool = False


@dataclass(frozen=True)
class Rules:
    """The rules of judgement.

    Args:
        margin: the loss that is still acceptable, in score units, [0, 1).
        alpha: two-sided error rate; each direction is tested at `alpha / 2`. (0, 0.5].
        max_lost: largest share of pairs a cell may lose to failures and still be measured.
        max_cut: largest share of pairs whose prompt the server cut, as `max_lost`.
        control_floor: the score of a control that has nothing to lose; None: that of guessing.
        drop_threshold: the simple rule's drop in mean score between neighbouring budgets.
        correction: how the verdicts of many cells are adjusted.
        planned_cells: treated cells of the whole plan (None: those in the data).
        planned_rows: its rows over all bins, likewise.
        seed: of the resampling behind the interval of a transition's point estimate.
        anytime: sampling stopped when it pleased (`sampling.strategy: sequential`), so that only
            evidence that allows this is used.
        retain: the share of the control's score to keep, (0, 1), in place of `margin`, which is
            then what it amounts to where the control scores 1.
        room: how far a treated score can be above its control's, where that is known beforehand.
        bad_arms: what must break, at most one arm a task: in no family with the others.
        treated: the treated cells of the plan. Those of a control that is not sane are not
            measured, whether they were asked or not.

    Raises:
        UsageError: a value outside its range.
    """

    margin: float
    alpha: float
    max_lost: float = 0.05
    max_cut: float = 0.05
    control_floor: float | None = None
    drop_threshold: float = 0.15
    correction: Correction = "holm"
    planned_cells: int | None = None
    planned_rows: int | None = None
    seed: int = 0
    anytime: bool = False
    retain: float | None = None
    room: float = 1.0
    bad_arms: tuple[BadArm, ...] = ()
    treated: tuple[CellKey, ...] = ()

    def __post_init__(self) -> None:
        require("margin", self.margin, 0 <= self.margin < 1, "a number in [0, 1), e.g. 0.10")
        require("alpha", self.alpha, 0 < self.alpha <= 0.5, "a number in (0, 0.5], e.g. 0.05")
        require("max_lost", self.max_lost, 0 <= self.max_lost <= 1, "a share in [0, 1]")
        require("max_cut", self.max_cut, 0 <= self.max_cut <= 1, "a share in [0, 1]")
        drop = self.drop_threshold
        require("drop_threshold", drop, 0 < drop <= 1, "a number in (0, 1], e.g. 0.15")
        valid_name = self.correction in CORRECTIONS
        require("correction", self.correction, valid_name, f"one of {', '.join(CORRECTIONS)}")
        require("room", self.room, 0 <= self.room <= 1, "a number in [0, 1]")
        for name in ("planned_cells", "planned_rows"):
            planned = getattr(self, name)
            require(name, planned, planned is None or planned > 0, "a count above 0")


def require(name: str, value: Any, valid: bool, expected: str) -> None:
    """Refuse `value` unless `valid`; NaN is never valid.

    Raises:
        UsageError: naming the value and what is expected.
    """
    if not valid or (isinstance(value, float) and math.isnan(value)):
        raise UsageError(f"{name} = {value!r} is not valid.", f"Expected: {expected}.")


@dataclass(frozen=True)
class Analysis:
    """Everything a report needs, as plain JSON data (None where there is no value, never NaN).

    `cells` and `transitions` have the keys of `summary.json`; `bin_stats` is one row per task, bin,
    variant, policy and budget, controls included. `sensitivity` has the rows over all bins of the
    arms that are known to be bad.
    """

    cells: list[CellRow]
    transitions: list[TransitionRow]
    bin_stats: list[BinStats]
    integrity: Integrity
    efficiency: Efficiency
    sensitivity: list[CellRow] = field(default_factory=list)
