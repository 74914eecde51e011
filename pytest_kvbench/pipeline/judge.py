"""The statistics of observations under an experiment's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pytest_kvbench.alike import Column
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline import measures, sane_control
from pytest_kvbench.pipeline.rules import rules_of
from pytest_kvbench.records import SCORE

if TYPE_CHECKING:
    import pandas as pd

    from pytest_kvbench.analyse import Analysis


Judge = Callable[[Experiment, Observations], "Analysis"]
Columns = dict[str, Column[Any]]
"""A table of observations, a column a name: what crosses to another process at least cost."""

_CELL = CellKey._fields
_OWN = ("replicate", "aa", "example_id", "cluster", "chance", "proof", "cut", "largest")
_OUTCOME = (
    *("score", "em", "label", "parts", "failure", "text", "finish_reason", "latency_s", "ttft_s"),
    *("prompt_tokens", "completion_tokens", "achieved", "kept_bytes", "full_bytes"),
)


def columns_of(observed: Observations) -> Columns:
    """Observations as the columns that `analyse` reads; of texts it is told which are equal."""
    cells, texts = observed.column("cell"), observed.column("text")
    return {
        **{name: cells.with_values([*map(attrgetter(name), cells.values)]) for name in _CELL},
        **{name: observed.column(name) for name in (*_OWN, *_OUTCOME)},
        "text": texts.with_values(range(len(texts.values))),
    }


@dataclass(frozen=True)
class Family:
    """The cells of one measure, the rules that judge them, and what is wrong with which control."""

    columns: Columns
    rules: Rules
    sick: Mapping[CellGroup, str]

    def table(self) -> pd.DataFrame:
        """The columns for `analyse`. Loads pandas."""
        import pandas as pd

        from pytest_kvbench.analyse.pairs import compact

        found = {name: compact(name, of) for name, of in self.columns.items()}
        return pd.DataFrame(found, copy=False)


@dataclass(frozen=True)
class Question:
    """What is to be judged: a family for each measure."""

    families: Mapping[str, Family]

    def answer(self) -> Analysis:
        """The statistics. Loads pandas."""
        from pytest_kvbench.analyse import analyse
        from pytest_kvbench.analyse.measures import together

        found = {
            measure: analyse(one.table(), one.rules, one.sick)
            for measure, one in self.families.items()
        }
        return together(found, {name: one.rules.margin for name, one in self.families.items()})


def judge(experiment: Experiment, observed: Observations) -> Analysis:
    """The statistics of observations under an experiment's rules.

    Treatments of a control that is not sane are not measured, however they were asked.
    """
    return question_of(experiment, observed).answer()


def question_of(experiment: Experiment, observed: Observations) -> Question:
    """What `judge` answers, ready to be handed to another process."""
    asked = {cell.measure for cell in observed.column("cell")}
    judged = [measure for measure in measures.of(experiment) if measure in asked] or [SCORE]
    return Question({measure: _family(experiment, measure, observed) for measure in judged})


def _family(experiment: Experiment, measure: str, observed: Observations) -> Family:
    mine = observed
    if experiment.diverges:
        cells = observed.column("cell")
        mine = observed.at(at for at, cell in enumerate(cells) if cell.measure == measure)
    sick = sane_control.sick_controls(experiment.gate_of(measure), mine)
    return Family(columns_of(mine), rules_of(experiment, measure), sick)
