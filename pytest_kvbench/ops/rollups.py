"""Per model: every arm, the ranking of policies, and how grounding goes with accuracy, as CSV."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.files import replace_text
from pytest_kvbench.ops.arms import COLUMNS, judged_arms
from pytest_kvbench.ops.best import SETTING, candidates
from pytest_kvbench.ops.columns import Record
from pytest_kvbench.ops.insights import FEWEST_CELLS, rank_correlation
from pytest_kvbench.ops.recipes import ARM, RECIPE, with_dials
from pytest_kvbench.ops.sheet import csv_text

if TYPE_CHECKING:
    import pandas as pd

EVIDENCE = "credited"
"""The metric of tasks that ask for the words an answer rests on."""

RANKING = [*SETTING, "rank", "policy", "params", "holds_down_to", "mean_delta", "rungs", "doubt"]
GROUNDING = [*RECIPE, *ARM, "n", "accuracy", EVIDENCE, "witness_pass", "coverage"]
CORRELATIONS = [*RECIPE, "of", "with", "n", "correlation", "ci_low", "ci_high"]


def write_rollups(
    target: Path, answers: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame, alpha: float
) -> list[Path]:
    """Write the `by_model_*` tables of a data set into its folder; returns their files.

    Correlations are there where an evidence task ran; their intervals are at 1 - alpha.
    """
    arms = judged_arms(answers, runs, cells).sort_values(["model", "task"], kind="stable")
    tables = {"by_model_arms": arms[COLUMNS], "by_model_ranking": ranking(arms)}
    evidence = answers[answers["metric"] == EVIDENCE]
    if len(evidence) and len(scored := with_dials(evidence, runs, cells)):
        tables["by_model_grounding"] = grounding(scored)
        tables["by_model_correlations"] = correlations(scored, alpha)
    for name, rows in tables.items():
        replace_text(target / f"{name}.csv", csv_text(rows))
    return [target / f"{name}.csv" for name in tables]


def ranking(arms: pd.DataFrame) -> pd.DataFrame:
    """The policies of each line: what holds down to the smallest budget first.

    Of policies that hold to the same budget, or nowhere, the one that loses least first: on the
    mean over the budgets that all of them were measured at (`rungs`), so that none is better for
    having been asked less.
    """
    import pandas as pd

    rows = [row for key, line in arms.groupby(SETTING, dropna=False) for row in _ranked(key, line)]
    return pd.DataFrame(rows, columns=RANKING)


def _ranked(key: tuple[object, ...], line: pd.DataFrame) -> Iterator[Record]:
    line = line[line["n"] > 0].assign(may=candidates)
    policies = list(line.groupby(["policy", "params"], dropna=False))
    budgets = [set(rows["budget"]) for _, rows in policies]
    common = set.intersection(*budgets) if budgets else set()
    found = [
        {
            "policy": policy,
            "params": params,
            "holds_down_to": rows.loc[rows["may"], "budget"].min(),
            "mean_delta": rows.loc[rows["budget"].isin(common), "delta"].mean(),
            "doubt": ", ".join(sorted(set(rows["doubt"]) - {""})),
        }
        for (policy, params), rows in policies
    ]
    never, none = 2.0, -2.0  # beyond any budget, beyond any difference
    order = sorted(
        found, key=lambda r: (_or(r["holds_down_to"], never), -_or(r["mean_delta"], none))
    )
    named = dict(zip(SETTING, key, strict=True))
    for rank, row in enumerate(order, 1):
        yield {**named, "rank": rank, "rungs": len(common), **row}


def _or(value: float, instead: float) -> float:
    return value if value == value else instead


def grounding(scored: pd.DataFrame) -> pd.DataFrame:
    """Of evidence tasks, the means of what every arm got right and of what it could show for it."""
    groups = _parts(scored).groupby([*RECIPE, *ARM], dropna=False, as_index=False)
    means = {name: (name, "mean") for name in ("accuracy", EVIDENCE, "witness_pass", "coverage")}
    return groups.agg(n=("example_id", "nunique"), **means)[GROUNDING]


def correlations(scored: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """How being right, credited, borne out by a witness, and the budget go together.

    Rank correlations over the answers of a recipe, contexts kept whole.
    """
    import pandas as pd

    measured = ("accuracy", EVIDENCE, "witness_pass", "coverage", "budget")
    rows = [
        {**dict(zip(RECIPE, key, strict=True)), **found}
        for key, own in _parts(scored).groupby(RECIPE, dropna=False)
        for one, other in itertools.combinations(measured, 2)
        for found in _correlated(own, one, other, alpha)
    ]
    return pd.DataFrame(rows, columns=CORRELATIONS)


def _correlated(own: pd.DataFrame, one: str, other: str, alpha: float) -> Iterator[Record]:
    known = own.dropna(subset=[one, other])
    if len(known) < FEWEST_CELLS or known[one].nunique() < 2 or known[other].nunique() < 2:
        return
    clusters = known.groupby("cluster").ngroup().to_numpy()
    x, y = (known[name].rank().to_numpy(float) for name in (one, other))
    found, low, high = rank_correlation(x, y, clusters, alpha)
    yield {
        "of": one,
        "with": other,
        "n": len(known),
        "correlation": found,
        "ci_low": low,
        "ci_high": high,
    }


def _parts(scored: pd.DataFrame) -> pd.DataFrame:
    """The answers of evidence tasks with what was measured of each."""
    own = scored[scored["metric"] == EVIDENCE]
    parts = own["parts"].map(json.loads)
    columns = {
        name: parts.map(lambda measured, name=name: measured.get(name, 0.0))
        for name in ("witness_pass", "coverage")
    }
    return own.assign(accuracy=own["em"], **{EVIDENCE: own["score"]}, **columns)
