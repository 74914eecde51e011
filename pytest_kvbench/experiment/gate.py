"""What is declared of verdicts: when a cell holds, and what must break."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pytest_kvbench.experiment.section import Fraction, Section, about
from pytest_kvbench.records import WITHHELD

Margin = Annotated[float, Field(gt=0, lt=1)]


class Retain(Section):
    """A margin that goes with the control's score."""

    retain: float = about("the share of the control's score to keep, in (0, 1)", gt=0, lt=1)


class DivergenceGate(Section):
    """When a distribution holds: what is compared, and the loss of it one can live with."""

    measure: Literal["overlap", "same_top", "prefix"] | None = about(
        "overlap (1 - total variation of next-token distributions), same_top (share of positions "
        "with the same top token) or prefix (share of a reply before the first other token); "
        "unset: the first that the engine gives",
        default=None,
    )
    margin: Margin = about("a loss of it that one can live with, in (0, 1)", default=0.05)


class Gate(Section):
    """When a cell holds, and what an item does about it."""

    margin: Margin | Retain = about(
        "a loss one can live with, in (0, 1), or {retain: 0.95}: at least that share of what the "
        "control gets right",
        default=0.10,
    )
    alpha: float = about(
        "the error rate, in (0, 0.5); intervals are at 1 - alpha", default=0.05, gt=0, lt=0.5
    )
    alpha_side: float | None = about(
        "the error rate of either direction, in (0, 0.25), in place of alpha; unset: alpha / 2",
        default=None,
        gt=0,
        lt=0.25,
    )
    mode: Literal["measure", "gate", "certify"] = about(
        "measure (no verdict fails a test), gate (a cell that breaks does) or certify (so does an "
        "arm that is not shown to hold over all bins, or what this rests on)",
        default="measure",
    )
    undetermined: Literal["pass", "fail"] = about(
        "pass or fail: what an undetermined cell does in mode gate", default="pass"
    )
    max_lost: float = about(
        "share of lost pairs above which a cell is not measured, in [0, 1)",
        default=0.05,
        ge=0,
        lt=1,
    )
    max_cut: float = about(
        "share of pairs whose prompt the server cut above which a cell is not measured, in [0, 1]; "
        "1: they are only flagged",
        default=0.05,
        ge=0,
        le=1,
    )
    divergence: DivergenceGate | None = about(
        "beside measure: divergence: {measure: overlap, margin: 0.05}", default=None
    )
    drop_threshold: float = about("the drop rule's step, in (0, 1)", default=0.15, gt=0, lt=1)
    correction: Literal["holm", "bh", "none"] = about(
        "holm, bh or none: how p-values of many cells are adjusted", default="holm"
    )
    control_floor: float | None = about(
        "in [0, 1): the control's mean must be above it, or its treatments are not measured, and "
        "in the shortest bin not asked; null: chance, which is 0, or one over the options of a "
        "choice",
        default=None,
        ge=0,
        lt=1,
    )
    max_sick: float = about(
        "share of a control's replies that may be empty, refused or cut off without a score, "
        "before its treatments are given up",
        default=0.5,
        ge=0,
        le=1,
    )

    @model_validator(mode="before")
    @classmethod
    def _of_either_side(cls, data: Any) -> Any:
        side = data.get("alpha_side") if isinstance(data, Mapping) else None
        if not isinstance(side, int | float) or isinstance(side, bool):
            return data
        if data.get("alpha") not in (None, 2 * side):
            raise ValueError(
                f"alpha_side {side:g} is an alpha of {2 * side:g}, and alpha is {data['alpha']}: "
                "give one of them"
            )
        return {**data, "alpha": 2 * side}

    def of_divergence(self) -> Gate:
        """The same rules for distributions: their own margin, and a control of any agreement."""
        margin = (self.divergence or DivergenceGate()).margin
        return self.model_copy(update={"margin": margin, "control_floor": None})

    @model_serializer(mode="wrap")
    def _as_before(self, serialised: SerializerFunctionWrapHandler) -> dict[str, object]:
        """As it was before distributions were compared, where none are."""
        plain: dict[str, object] = serialised(self)
        return {key: of for key, of in plain.items() if (key, of) != ("divergence", None)}

    @property
    def retain(self) -> float | None:
        """The share of the control's score that must be kept; None where the margin is a loss."""
        return self.margin.retain if isinstance(self.margin, Retain) else None

    @property
    def loss(self) -> float:
        """The margin in score units; of a share, what it is where the control scores 1."""
        return 1 - self.margin.retain if isinstance(self.margin, Retain) else self.margin


class Sensitivity(Section):
    """An arm that is known to be bad: where it does not break, the task can show no loss."""

    policy: str = about(
        "a policy of the engine, or withheld: the full cache, asked without the context"
    )
    budget: Fraction = about(
        "in (0, 1], where the policy does not say it; withheld has none", default=0.1
    )

    @property
    def arm(self) -> tuple[str, float]:
        """Policy and budget; what is asked without the context keeps its whole cache."""
        return self.policy, 1.0 if self.policy == WITHHELD else self.budget
