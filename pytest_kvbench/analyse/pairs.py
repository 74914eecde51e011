"""Which answer is compared with which: treated and control, same example, same replicate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pytest_kvbench.alike import Column
from pytest_kvbench.analyse.tables import (
    CELL,
    GROUP,
    HIGHS,
    group_numbers,
    numbers,
    refuse_budgets,
    refuse_duplicates,
    refuse_empty,
    refuse_outside,
    require_columns,
    whole_numbers,
)
from pytest_kvbench.divergence.records import HIGH
from pytest_kvbench.errors import UsageError
from pytest_kvbench.observation import Cut
from pytest_kvbench.records import FULL_CACHE, SCORE

IDENTITY = [*CELL, "replicate", "aa", "example_id", "cluster", "proof"]
LABELS = ["label", "failure", "finish_reason"]
NUMBERS = [
    "score",
    "em",
    "latency_s",
    "ttft_s",
    "prompt_tokens",
    "completion_tokens",
    "achieved",
    "kept_bytes",
    "full_bytes",
]
OBSERVATIONS = [*IDENTITY, "label", "failure", "text", "finish_reason", *NUMBERS]
"""The columns that must be there; `parts`, a mapping of numbers by name, `cut`, an
`observation.Cut`, `chance`, the score of guessing, and `largest`, the size of the largest context
that could be drawn, may be."""
WHAT = "observations"
ANSWER = [*GROUP, "example_id", "replicate"]
"""By which a treated request finds its control's."""
COMPARED = [
    *("score", "high", "label", "failure", "text", "finish_reason", "completion_tokens", "cut")
]
JOINED = [
    *(*CELL, "replicate", "example_id", "cluster", "proof", "achieved", "chance", "largest"),
    *COMPARED,
]


IDS = ("example_id", "cluster")


def compact(name: str, column: Column[Any]) -> np.ndarray:
    """A column of observations as few bytes.

    Of texts it only matters which are equal, of ids besides how they are sorted: both are numbers.
    """
    values: np.ndarray
    if name == "text":
        values = np.arange(len(column.values), dtype=np.int32)
    elif name in IDS:
        values = np.unique(column.values, return_inverse=True)[1].astype(np.int32)
    elif name in NUMBERS:
        values = np.array(column.values, dtype=float)
    else:
        values = pd.Series(column.values).to_numpy()
    return values[np.array(column.codes, dtype=np.int32)]


def with_ids(table: pd.DataFrame, columns: Mapping[str, Column[Any]]) -> pd.DataFrame:
    """Rows of a table whose columns are `compact`, with the ids that its numbers stand for."""
    return table.assign(
        **{name: np.unique(columns[name].values)[table[name].to_numpy()] for name in IDS}
    )


def checked_observations(observations: pd.DataFrame) -> pd.DataFrame:
    """The observations with every column in its type: empty labels "", missing numbers NaN.

    Replies are whole numbers, equal where these are.

    Raises:
        UsageError: a column is missing, a row is there twice, a score is outside [0, 1], or a row
            is both an answer with a score and a failure, or neither.
    """
    if "measure" not in observations:
        observations = observations.assign(measure=SCORE)
    require_columns(observations, OBSERVATIONS, WHAT)
    refuse_empty(observations, IDENTITY, WHAT)
    table = pd.DataFrame(_in_their_types(observations), copy=False)
    table["high"] = _high(table)
    for column in ("score", "high", "em"):
        refuse_outside(table, column, 0, 1, WHAT)
    refuse_budgets(table, WHAT)
    table["bin"] = whole_numbers(table, "bin", WHAT)
    refuse_duplicates(table, [*CELL, "replicate", "aa", "example_id"], WHAT)
    confused = (table["score"].isna() != (table["failure"] != "")).to_numpy()
    if confused.any():
        row = table.iloc[int(confused.argmax())]
        raise UsageError(
            f"observations: {row['task']} bin {row['bin']} {row['policy']} {row['example_id']} "
            f"has score {row['score']} and failure {row['failure']!r}.",
            "Each row is either an answer with a score or a failure without one.",
        )
    return table


def _in_their_types(observations: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Columns as arrays of their own, so that none is copied for another's sake."""
    size = len(observations)
    found: dict[str, Any] = {column: observations[column] for column in OBSERVATIONS}
    found |= {column: found[column].fillna("").astype(str) for column in LABELS}
    found["text"] = pd.Series(pd.factorize(found["text"])[0].astype(np.int32), observations.index)
    for column in ("bin", "budget", *NUMBERS):
        found[column] = numbers(observations, column, WHAT)
    found["aa"] = found["aa"].astype(bool)
    parts: Any = observations["parts"] if "parts" in observations else [{} for _ in range(size)]
    found["parts"] = pd.Series(list(parts), index=observations.index, dtype=object)
    sent: Any = observations["cut"] if "cut" in observations else [None for _ in range(size)]
    cuts = [cut if isinstance(cut, Cut) else None for cut in sent]
    found["cut"] = pd.Series(cuts, index=observations.index, dtype=object)
    found["largest"] = observations.get("largest", 1)
    given = "chance" in observations
    found["chance"] = numbers(observations, "chance", WHAT) if given else 0.0
    return found


def _high(table: pd.DataFrame) -> pd.Series[float]:
    """The most that each score can be: itself, but where a measure lies between two bounds."""
    if (table["measure"] == SCORE).all():
        return table["score"]
    read = zip(table["parts"], table["measure"], table["score"], strict=True)
    found = [(parts or {}).get(f"{measure}{HIGH}", score) for parts, measure, score in read]
    return pd.Series(found, index=table.index, dtype=float)


def pair(table: pd.DataFrame) -> pd.DataFrame:
    """Every treated request beside the control's of the same example and replicate.

    Args:
        table: checked observations.

    Returns:
        One row per treated request: its columns of `JOINED`, and `COMPARED` of its control with the
        suffix `_control`; `lost` where either has no score.
    """
    return beside_control(table.loc[(table["policy"] != FULL_CACHE) & ~table["aa"], JOINED], table)


def pair_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Every answer of the control's second run (A/A) beside that of the first, as `pair` does."""
    return beside_control(table.loc[(table["policy"] == FULL_CACHE) & table["aa"], JOINED], table)


def beside_control(treated: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """`treated` joined to the control's first run, row by row."""
    control = table.loc[(table["policy"] == FULL_CACHE) & ~table["aa"], [*ANSWER, *COMPARED]]
    joined = treated.merge(
        control, on=ANSWER, how="left", suffixes=("", "_control"), validate="many_to_one"
    )
    joined["lost"] = joined["score"].isna() | joined["score_control"].isna()
    joined["labelled"] = (joined["label"] != "") | (joined["label_control"].fillna("") != "")
    return joined


def worst_pairs(joined: pd.DataFrame) -> pd.DataFrame:
    """`measured_pairs` of cells that lost some, the lost ones counted as losses.

    As right under the control and wrong under treatment: a failure that comes with the budget can
    then never make a cell hold.
    """
    number = group_numbers(joined, CELL)
    some = joined[np.isin(number, number[joined["lost"].to_numpy()])].reset_index(drop=True)
    some.loc[some["lost"], ["score_control", "score"]] = 1.0, 0.0
    if "high" in some:
        some.loc[some["lost"], ["high_control", "high"]] = 1.0, 0.0
    return measured_pairs(some.assign(lost=False))


def measured_pairs(joined: pd.DataFrame) -> pd.DataFrame:
    """The pairs with both scores, averaged over replicates: one row per cell and example.

    Where some score lies between two bounds, with the most that both can be.
    """
    kept = joined[~joined["lost"]]
    scores = {"control": "score_control", "treated": "score"}
    if "high" in kept and not _are_exact(kept):
        scores |= dict(zip(HIGHS, ("high_control", "high"), strict=True))
    number = group_numbers(kept, [*CELL, "example_id"])
    firsts, counts = np.unique(number, return_index=True)[1], np.bincount(number)
    averaged = kept[[*CELL, "example_id", "cluster"]].iloc[firsts].reset_index(drop=True)
    for name, column in scores.items():
        means = np.bincount(number, weights=kept[column].to_numpy(dtype=float)) / counts
        # an average of equal scores may miss them by the last digit; right-or-wrong must stay so
        averaged[name] = np.clip(means.round(12), 0, 1)
    return averaged


def _are_exact(pairs: pd.DataFrame) -> bool:
    exact = pairs["high"].eq(pairs["score"]) & pairs["high_control"].eq(pairs["score_control"])
    return bool(exact.all())
