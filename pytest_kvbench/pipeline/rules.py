"""The rules that an experiment is judged by, and that its plan is held against."""

from __future__ import annotations

from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import assay, measures, plan
from pytest_kvbench.records import SCORE


def rules_of(experiment: Experiment, measure: str = SCORE) -> Rules:
    """The rules that an experiment's cells of one measure are judged by: a family of its own."""
    gate = experiment.gate_of(measure)
    planned = [cell for cell in plan.cells(experiment) if cell.measure == measure]
    treated = tuple(CellKey.of(cell) for cell in planned if not cell.is_control)
    return Rules(
        margin=gate.loss,
        retain=gate.retain,
        alpha=gate.alpha,
        max_lost=gate.max_lost,
        max_cut=gate.max_cut,
        control_floor=gate.control_floor,
        drop_threshold=gate.drop_threshold,
        correction=gate.correction,
        # controls alone: nothing to share
        planned_cells=max(1, len(treated)),
        planned_rows=max(1, len({key.pooled for key in treated})),
        seed=experiment.sampling.seed,
        anytime=experiment.sequential,
        room=measures.room_of(experiment, measure),
        bad_arms=assay.bad_arms(experiment, planned, measure),
        treated=treated,
    )
