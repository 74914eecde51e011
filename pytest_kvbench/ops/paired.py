"""The measured pairs of a group, a curve over budgets each: what a posterior is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import question_of
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.records import SCORE
from pytest_kvbench.selection import Bin

if TYPE_CHECKING:
    import pandas as pd

    from pytest_kvbench.posterior.curves import Pairs

OPEN_END = 2
"""A bin without an upper edge counts as so many times its lower one: a place on the log scale."""


def paired_curves(prepared: Prepared) -> list[Pairs]:
    """Every ladder of a group's plan, with the pairs that may be judged.

    Cells that were not measured (a control that is not sane, a budget that was provably not
    applied, too many lost answers) are left out, and so are lost pairs; of trials the mean counts.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    import pandas as pd

    from pytest_kvbench.analyse import analyse
    from pytest_kvbench.analyse.pairs import checked_observations, measured_pairs, pair

    stored = observed(prepared)
    family = question_of(prepared.experiment, stored.judged).families.get(SCORE)
    if family is None:
        return []  # a curve is one of scores
    table = pd.DataFrame(family.columns)
    found = measured_pairs(pair(checked_observations(table)))
    judged = analyse(table, family.rules, family.sick).cells
    measured = {CellKey.of_row(row) for row in judged if row["verdict_holm"] != "not-measured"}
    ladders = found.groupby(["task", "bin", "variant", "policy"], sort=True)
    curves = (_curve(prepared, key, rows, measured) for key, rows in ladders)
    return [curve for curve in curves if curve is not None]


def _curve(
    prepared: Prepared, key: Any, rows: pd.DataFrame, measured: set[CellKey]
) -> Pairs | None:
    import numpy as np

    from pytest_kvbench.posterior.curves import CurveKey, Pairs

    task, index, variant, policy = key
    keys = (CellKey(task, int(index), variant, policy, b) for b in set(rows["budget"]))
    budgets = sorted((k.budget for k in keys if k in measured and k.budget < 1), reverse=True)
    if not budgets:
        return None
    wide = rows.pivot(index=["example_id", "cluster"], columns="budget", values="treated")
    control = rows.groupby(["example_id", "cluster"])["control"].first().loc[wide.index]
    bin_ = next(b for b in prepared.manifests[task].bins if b.index == index)
    group = prepared.experiment.group
    return Pairs(
        CurveKey(group, task, *_edges(bin_), policy_with_settings(prepared, policy, variant)),
        tuple(budgets),
        control.to_numpy(float),
        wide[budgets].to_numpy(float),
        np.unique(wide.index.get_level_values("cluster"), return_inverse=True)[1],
    )


def _edges(bin_: Bin) -> tuple[int, int]:
    low = bin_.low or 1
    return low, bin_.high or OPEN_END * low


def policy_with_settings(prepared: Prepared, policy: str, variant: str) -> str:
    """A policy with all that may move its losses: arms of one name and other settings differ."""
    experiment = prepared.experiment
    params: Mapping[str, Any] = experiment.kv.params.get(policy, {})
    return " ".join([policy, *_settings(experiment, params, variant)])


def _settings(experiment: Any, params: Mapping[str, Any], variant: str) -> Iterator[str]:
    yield from (f"{name}={value}" for name, value in sorted(params.items()))
    if not experiment.kv.question_aware:
        yield "question-unseen"
    if experiment.sampling.self_consistency > 1:
        yield f"votes={experiment.sampling.self_consistency}"
    if variant:
        yield f"variant={variant}"
