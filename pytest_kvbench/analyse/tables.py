"""What comes in as a table: checked, and cut into cells. Only its callers may import pandas too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from pytest_kvbench import hints
from pytest_kvbench.analyse.ladder import CellPairs
from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import brief

_EXACT = 2**53
"""Above it floats skip whole numbers."""

CELL = list(CellKey._fields)
GROUP = [field.name for field in fields(CellGroup)]
"""The columns that a cell shares with its control."""
HIGHS = ["control_high", "treated_high"]
"""Columns with the most that scores can be, where these lie between two bounds."""


def require_columns(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Refuse a table that lacks columns.

    Raises:
        UsageError: naming what is missing and all that is needed.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UsageError(
            f"{what}: missing columns: {', '.join(missing)}.", f"Needed: {', '.join(columns)}."
        )


def refuse_empty(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Refuse rows without a value in one of `columns`.

    Raises:
        UsageError: naming the first such row and column.
    """
    for column in columns:
        empty = frame[column].isna().to_numpy()
        if empty.any():
            raise UsageError(
                f"{what}: row {int(empty.argmax())} (of {int(empty.sum())}) has no {column}.",
                "Every row needs one; leave out pairs that were not measured.",
            )


def refuse_duplicates(frame: pd.DataFrame, key: Sequence[str], what: str) -> None:
    """Refuse rows that say the same thing twice.

    Raises:
        UsageError: naming the first of them.
    """
    twice = frame.duplicated(list(key)).to_numpy()
    if twice.any():
        row = frame.iloc[int(twice.argmax())]
        named = ", ".join(f"{column}={row[column]!s}" for column in key)
        raise UsageError(
            f"{what}: {hints.count(int(twice.sum()), 'duplicate row')}, the first: {named}.",
            "Keep one row for each; repeated trials are to be averaged, or given as replicates.",
        )


def numbers(frame: pd.DataFrame, column: str, what: str) -> pd.Series[float]:
    """A column as floats, NaN where empty.

    Raises:
        UsageError: naming the first value that is no number.
    """
    values = pd.to_numeric(frame[column], errors="coerce")
    values = values if values.dtype == float else values.astype(float)
    bad = (values.isna() & frame[column].notna()).to_numpy()
    if bad.any():
        at = int(bad.argmax())
        raise UsageError(
            f"{what}: {column} of row {at} is {brief(frame[column].iloc[at])}.",
            "It must be a number.",
        )
    return values


def refuse_outside(frame: pd.DataFrame, column: str, low: float, high: float, what: str) -> None:
    """Refuse numbers outside [low, high]; NaN passes.

    Raises:
        UsageError: naming the first of them.
    """
    values = frame[column].to_numpy()
    bad = (values < low) | (values > high)
    if bad.any():
        at = int(bad.argmax())
        raise UsageError(
            f"{what}: {column} of row {at} is {values[at]:g}.",
            f"It must lie in [{low:g}, {high:g}]; rescale percentages by 1/100.",
        )


def refuse_below(frame: pd.DataFrame, column: str, least: pd.Series[float], what: str) -> None:
    """Refuse numbers below those of another column, row by row.

    Raises:
        UsageError: naming the first of them.
    """
    bad = (frame[column] < least).to_numpy()
    if bad.any():
        at = int(bad.argmax())
        raise UsageError(
            f"{what}: {column} of row {at} is {frame[column].iloc[at]:g}.",
            f"It must be at least {least.name}, {least.iloc[at]:g}: both bound one score.",
        )


def refuse_budgets(frame: pd.DataFrame, what: str) -> None:
    """Refuse budgets that are no share of a full cache.

    Raises:
        UsageError: naming the first of them.
    """
    refuse_outside(frame, "budget", 0, 1, what)
    if (frame["budget"] == 0).any():
        raise UsageError(f"{what}: a budget is 0.", "It must lie in (0, 1].")


def whole_numbers(frame: pd.DataFrame, column: str, what: str) -> pd.Series[int]:
    """A column of numbers as integers.

    Raises:
        UsageError: naming the first that has a fraction.
    """
    broken = frame.loc[(frame[column] % 1 != 0) | (frame[column].abs() > _EXACT), column]
    if len(broken):
        raise UsageError(f"{what}: {column} {broken.iloc[0]:g} is no integer.", "Give 0, 1, 2 ...")
    return frame[column].astype(int)


def group_numbers(table: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """The number of each row's group, groups counted in sorted order.

    What `groupby(columns).ngroup()` gives: of a few hundred rows in a fraction of its time.
    """
    number = np.zeros(len(table), dtype=int)
    for column in columns:
        codes, values = pd.factorize(table[column], sort=True)
        number = np.unique(number * len(values) + codes, return_inverse=True)[1]
    return number


def places(
    table: pd.DataFrame, columns: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Where the rows of each group are, in sorted order of its values of `columns`.

    None of these may be missing.
    """
    number = group_numbers(table, columns)
    order = np.argsort(number, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(number))[:-1]) if len(order) else ():
        yield tuple(table[column].iloc[rows[0]] for column in columns), rows


def grouped(
    table: pd.DataFrame, columns: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows of each group, as `places` finds them."""
    for key, rows in places(table, columns):
        yield key, table.iloc[rows]


def split_cells(pairs: pd.DataFrame) -> dict[CellKey, CellPairs]:
    """The pairs of every cell.

    Args:
        pairs: columns of `CELL`, example_id, cluster, control, treated, and where these are the
            least that scores can be also `HIGHS`; one row per example.

    Returns:
        Cells in sorted order; ids of examples and clusters replaced by integer codes.
    """
    if pairs.empty:
        return {}
    number = group_numbers(pairs, CELL)
    order = np.argsort(number, kind="stable")
    columns = [
        pairs["control"].to_numpy(dtype=float),
        pairs["treated"].to_numpy(dtype=float),
        pd.factorize(pairs["cluster"])[0],
        pd.factorize(pairs["example_id"])[0],
        *(pairs[column].to_numpy(dtype=float) for column in HIGHS if column in pairs),
    ]
    ends = np.cumsum(np.bincount(number))[:-1]
    parts = [np.split(column[order], ends) for column in columns]
    firsts = pairs[CELL].iloc[order[[0, *ends]]]
    keys = [cell_key(row) for row in firsts.itertuples(index=False)]
    return {key: _pairs(*arrays) for key, *arrays in zip(keys, *parts, strict=True)}


def _pairs(
    control: np.ndarray,
    treated: np.ndarray,
    clusters: np.ndarray,
    examples: np.ndarray,
    *most: np.ndarray,
) -> CellPairs:
    pairs = CellPairs(control, treated, clusters, examples)
    return replace(pairs, control_high=most[0], treated_high=most[1]) if most else pairs


def cell_key(values: Any) -> CellKey:
    """The key of a cell from its values in the order of `CELL`."""
    task, bin_, variant, policy, budget, measure = values
    return CellKey(str(task), int(bin_), str(variant), str(policy), float(budget), str(measure))
