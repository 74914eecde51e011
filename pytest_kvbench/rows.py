"""The rows that an analysis makes, as `summary.json` has them. None where there is no value."""

from __future__ import annotations

from typing import TypedDict

from pytest_kvbench.cellkey import BinKey, Columns
from pytest_kvbench.records import Proof, VerdictWord


class Facts(TypedDict):
    """What only the requests know of a cell. Shares and differences in score units."""

    achieved: float | None
    proof: Proof
    lost: int
    lost_share: float
    delta_unlabelled: float | None


class CellRow(Columns, Facts):
    """One cell, a control or a row over all bins; of a control there is no verdict."""

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
    verdict: VerdictWord | None
    verdict_holm: VerdictWord | None
    verdict_item: VerdictWord | None
    flags: list[str]
    retention: float | None
    p_mcnemar: float | None
    needed: int | None
    reason: str


class TransitionRow(TypedDict):
    """Where along the budgets of one ladder quality is lost."""

    task: str
    bin: BinKey
    variant: str
    policy: str
    b_safe: float | None
    b_broken: float | None
    b_safe_adjusted: float | None
    b_broken_adjusted: float | None
    estimate: float | None
    estimate_ci: list[float | None] | None
    estimate_between: list[float] | None
    rule_budget: float | None
    shape: str
