"""The keys of a posterior's analysis.json: its records as they are written."""

from __future__ import annotations

from typing import Literal, TypedDict


class PlaceRow(TypedDict):
    """A `statements.Place`."""

    task: str
    low: int
    high: int


class BudgetRow(TypedDict):
    """A `statements.AtBudget`."""

    budget: float
    loss: float
    low: float
    high: float
    below_margin: float
    interpolated: bool
    pairs: int


class StepRow(TypedDict):
    """A `statements.Step`."""

    upper: float | None
    lower: float | None
    probability: float


class StatementRow(TypedDict):
    """A `statements.Statement`."""

    policy: str
    place: PlaceRow
    budgets: list[BudgetRow]
    steps: list[StepRow]
    interval: tuple[float, float | None] | None
    groups: dict[str, float]
    misfit: float


class ComparisonRow(TypedDict):
    """A `statements.Comparison`."""

    place: PlaceRow
    budget: float
    first: str
    second: str
    better: float
    alike: float


class CurveRow(TypedDict):
    """A `curves.CurveKey`."""

    group: str
    task: str
    low: int
    high: int
    policy: str


class InputRow(CurveRow):
    """What of a curve went in; `sha` is of its pairs."""

    budgets: list[float]
    pairs: int
    tokens: float
    sha: str


class DoubtRow(TypedDict):
    """A `paired.ArmDoubt`."""

    task: str
    policy: str
    budget: float
    doubt: str


class ApartRow(CurveRow):
    """A curve that is not monotone."""

    misfit: float


class SamplingRow(TypedDict):
    """A `draws.Sampling`."""

    sampler: Literal["nuts", "slice"]
    seed: int
    chains: int
    draws: int
    tune: int
    target_accept: float
    thin: int


class Config(TypedDict):
    """All that decides what is said."""

    model: str
    targets: list[str]
    curves: list[InputRow]
    doubts: list[DoubtRow]
    sampling: SamplingRow
    margin: float
    versions: dict[str, str]


class Analysis(TypedDict):
    """The whole file."""

    config: Config
    not_monotone: list[ApartRow]
    diagnostics: dict[str, float] | None
    problems: list[str]
    prior_sensitivity: float | None
    statements: list[StatementRow]
    comparisons: list[ComparisonRow]
