"""What each dial does to the score, like for like: the same example, every other dial equal."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_kvbench.analyse.cell import checked, evidence_of
from pytest_kvbench.analyse.evidence import interval
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.ops.columns import Record
from pytest_kvbench.pipeline import assay, plan
from pytest_kvbench.records import FULL_CACHE

if TYPE_CHECKING:
    import pandas as pd

DIALS = (
    "policy",
    "budget",
    "question_aware",
    "params",
    "variant",
    "model",
    "engine",
    "dtype",
    "sampling",
    "self_consistency",
    "template",
)
ASKED = ("task", "example_id")
"""With all dials, what names an answer; trials, and the same thing asked twice, are averaged.

What a task makes of an example (`prompt`) is equal too, unless the template is the dial.
"""


class Effect(NamedTuple):
    """A mean difference of two scores of the same examples, with its interval, in score units."""

    n: int
    clusters: int
    mean_from: float
    mean_to: float
    effect: float
    ci_low: float
    ci_high: float


def with_dials(answers: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Scored answers with every dial as a column, second runs of a control (A/A) left out.

    Of samples that vote on an answer, the elected one is the answer. Cells that were not measured,
    and controls that are not sane, have none; nor have arms that are known to be bad.
    """
    dtypes = runs[["run_id", "snapshot"]].copy()
    dtypes["dtype"] = dtypes.pop("snapshot").map(_dtype)
    scored = answers[answers["score"].notna() & ~answers["aa"] & answers["elected"]]
    scored = scored[~_places(scored).isin(_places(cells[~is_measured(cells)]))]
    scored = scored[~_arms(scored).isin(list(_asked_beside(runs)))]
    return scored.merge(dtypes.drop_duplicates("run_id"), on="run_id", how="left").fillna(
        {"dtype": "null"}
    )


def is_measured(cells: pd.DataFrame) -> pd.Series:
    """Of each cell whether its answers say something of its arm; of a control, if it is sane."""
    sick = (cells["policy"] == FULL_CACHE) & (cells["reason"].fillna("") != "")
    return ~sick & (cells["verdict_holm"] != "not-measured")


def _places(rows: pd.DataFrame) -> pd.MultiIndex:
    """The group and cell of each row; a cell's bin may be "all"."""
    import pandas as pd

    names = ["group", "task", "bin", "variant", "policy", "budget"]
    return pd.MultiIndex.from_frame(rows[names].astype({"bin": str}))


def _arms(rows: pd.DataFrame) -> pd.MultiIndex:
    import pandas as pd

    return pd.MultiIndex.from_frame(rows[["group", "task", "policy", "budget"]])


def _asked_beside(runs: pd.DataFrame) -> Iterator[tuple[str, str, str, float]]:
    """The arms that were asked only because they are known to be bad, by group and task."""
    for group, snapshot in set(zip(runs["group"], runs["snapshot"], strict=True)):
        with contextlib.suppress(ValueError):  # a snapshot of another version
            experiment = Experiment(**{"sensitivity": None, **json.loads(snapshot)})
            for arm in assay.bad_arms(experiment, plan.cells(experiment)):
                if not arm.is_listed:
                    yield group, arm.task, arm.policy, arm.budget


def _dtype(snapshot: str) -> str | None:
    """The declared dtype of weights and cache; None where none was declared."""
    dtype: str | None = Snapshot(json.loads(snapshot)).get("engine.dtype")
    return dtype


def effects(scored: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The difference of every two values of every dial.

    Args:
        scored: as `with_dials` gives them.
        alpha: two-sided level of the intervals.

    Returns:
        dial, from, to, n (pairs), clusters, mean_from, mean_to, effect, ci_low, ci_high; budgets
        in steps from each to the next smaller.
    """
    import pandas as pd

    rows = [row for dial in DIALS for row in _of_dial(scored, dial, alpha)]
    return pd.DataFrame(rows, columns=["dial", "from", "to", *Effect._fields])


def _of_dial(scored: pd.DataFrame, dial: str, alpha: float) -> Iterator[Record]:
    if scored[dial].nunique() < 2:
        return
    same = [*ASKED, "cluster", *(other for other in DIALS if other != dial)]
    same += ["prompt"] if dial != "template" else []
    wide = scored.groupby([*same, dial], dropna=False)["score"].mean().unstack(dial)
    values = list(wide.columns)
    for former, later in _steps(dial, values):
        # by place: pandas would take [False, True] for a mask
        both = wide.iloc[:, [values.index(former), values.index(later)]].dropna()
        if len(both):
            yield {
                "dial": dial,
                "from": former,
                "to": later,
                **difference(
                    both.iloc[:, 0].to_numpy(),
                    both.iloc[:, 1].to_numpy(),
                    both.index.get_level_values("cluster").to_numpy(),
                    alpha,
                )._asdict(),
            }


def _steps(dial: str, values: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    if dial == "budget":
        return itertools.pairwise(sorted(values, reverse=True))
    return itertools.combinations(sorted(values, key=str), 2)


def difference(former: np.ndarray, later: np.ndarray, clusters: np.ndarray, alpha: float) -> Effect:
    """The mean of later - former with its interval, clusters kept together; shape (n,) each."""
    pairs = checked(
        np.clip(former.round(12), 0, 1), np.clip(later.round(12), 0, 1), clusters.astype(str)
    )
    evidence = evidence_of(*pairs)
    low, high = interval(evidence, alpha)
    return Effect(
        n=len(former),
        clusters=int(pairs[2].max()) + 1,
        mean_from=float(former.mean()),
        mean_to=float(later.mean()),
        effect=evidence.estimate,
        ci_low=low,
        ci_high=high,
    )


def losses(scored: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Treated minus control, per model, policy and budget, over all tasks and lengths measured.

    Returns:
        model, policy, budget, tasks, and the columns of `difference`.
    """
    import pandas as pd

    rest = [d for d in DIALS if d not in ("policy", "budget", "params", "question_aware")]
    keys = [*ASKED, "prompt", "cluster", *rest]
    control = scored[scored["policy"] == FULL_CACHE].groupby(keys, dropna=False)["score"].mean()
    arms = [*keys, "policy", "budget"]
    treated = scored[scored["policy"] != FULL_CACHE].groupby(arms, dropna=False)["score"].mean()
    both = treated.reset_index().merge(control.reset_index(name="control"), on=keys)
    rows = [
        {
            "model": model,
            "policy": policy,
            "budget": budget,
            "tasks": own["task"].nunique(),
            **difference(
                own["control"].to_numpy(), own["score"].to_numpy(), own["cluster"].to_numpy(), alpha
            )._asdict(),
        }
        for (model, policy, budget), own in both.groupby(["model", "policy", "budget"])
    ]
    found = pd.DataFrame(rows, columns=["model", "policy", "budget", "tasks", *Effect._fields])
    return found.sort_values(["model", "policy", "budget"], ascending=[True, True, False])
