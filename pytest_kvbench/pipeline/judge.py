"""The statistics of observations under an experiment's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline import sane_control
from pytest_kvbench.pipeline.rules import rules_of

if TYPE_CHECKING:
    from pytest_kvbench.analyse import Analysis


Judge = Callable[[Experiment, Observations], "Analysis"]
Columns = dict[str, Sequence[Any]]
"""A table of observations, a column a name: what crosses to another process at least cost."""

_CELL = CellKey._fields
_OWN = ("replicate", "aa", "example_id", "cluster", "chance", "proof", "cut", "largest")
_OUTCOME = (
    *("score", "em", "label", "parts", "failure", "text", "finish_reason", "latency_s", "ttft_s"),
    *("prompt_tokens", "completion_tokens", "achieved", "kept_bytes", "full_bytes"),
)


def columns_of(observed: Observations) -> Columns:
    """Observations as the columns that `analyse` reads."""
    cells = observed.column("cell")
    return {
        **{name: [getattr(cell, name) for cell in cells] for name in _CELL},
        **{name: observed.column(name) for name in (*_OWN, *_OUTCOME)},
    }


@dataclass(frozen=True)
class Question:
    """What is to be judged, by which rules, and what is wrong with which control."""

    columns: Columns
    rules: Rules
    sick: Mapping[CellGroup, str]

    def answer(self) -> Analysis:
        """The statistics. Loads pandas."""
        import pandas as pd

        from pytest_kvbench.analyse import analyse

        return analyse(pd.DataFrame(self.columns), self.rules, self.sick)


def judge(experiment: Experiment, observed: Observations) -> Analysis:
    """The statistics of observations under an experiment's rules.

    Treatments of a control that is not sane are not measured, however they were asked.
    """
    return question_of(experiment, observed).answer()


def question_of(experiment: Experiment, observed: Observations) -> Question:
    """What `judge` answers, ready to be handed to another process."""
    sick = sane_control.sick_controls(experiment.gate, observed)
    return Question(columns_of(observed), rules_of(experiment), sick)
