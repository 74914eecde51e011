"""The statistics of observations under an experiment's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import plan, sane_control

if TYPE_CHECKING:
    from pytest_kvbench.analyse import Analysis


Judge = Callable[[Experiment, Sequence[Mapping[str, Any]]], "Analysis"]


def judge(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Analysis:
    """The statistics of observations under an experiment's rules.

    Treatments of a control that is not sane are not measured, however they were asked.
    """
    import pandas as pd

    from pytest_kvbench.analyse import Rules
    from pytest_kvbench.analyse import analyse as analyse_table

    gate = experiment.gate
    rules = Rules(
        margin=gate.margin,
        alpha=gate.alpha,
        max_lost=gate.max_lost,
        drop_threshold=gate.drop_threshold,
        correction=gate.correction,
        planned_cells=max(1, plan.treated_cells(experiment)),  # controls alone: nothing to share
        seed=experiment.sampling.seed,
        anytime=experiment.sequential,
    )
    sick = sane_control.sick_controls(gate, rows)
    return analyse_table(pd.DataFrame(list(rows)), rules, sick)
