"""The rules that an experiment is judged by, and that its plan is held against."""

from __future__ import annotations

from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import plan


def rules_of(experiment: Experiment) -> Rules:
    """The rules that an experiment's cells are judged by."""
    gate = experiment.gate
    return Rules(
        margin=gate.margin,
        alpha=gate.alpha,
        max_lost=gate.max_lost,
        max_cut=gate.max_cut,
        drop_threshold=gate.drop_threshold,
        correction=gate.correction,
        planned_cells=max(1, plan.treated_cells(experiment)),  # controls alone: nothing to share
        seed=experiment.sampling.seed,
        anytime=experiment.sequential,
    )
