"""The same statistics on anybody's pairs: behind `kvbench judge`, and the core of `analyse`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd

from pytest_kvbench.analyse.artefacts import flags_of_result
from pytest_kvbench.analyse.at_floor import nothing_to_lose
from pytest_kvbench.analyse.cell import CellResult
from pytest_kvbench.analyse.cells import (
    Verdict,
    cell_row,
    family_verdicts,
    judge_each,
    judge_over_bins,
)
from pytest_kvbench.analyse.ladder import CellPairs
from pytest_kvbench.analyse.rules import Correction, Rules
from pytest_kvbench.analyse.tables import (
    CELL,
    HIGHS,
    numbers,
    refuse_below,
    refuse_budgets,
    refuse_duplicates,
    refuse_empty,
    refuse_outside,
    require_columns,
    split_cells,
    whole_numbers,
)
from pytest_kvbench.analyse.transitions import transitions
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.divergence.records import HIGH, JUDGED
from pytest_kvbench.errors import UsageError
from pytest_kvbench.hints import did_you_mean
from pytest_kvbench.reading import brief
from pytest_kvbench.records import SCORE
from pytest_kvbench.rows import CellRow, JudgedPairs, TransitionRow

PAIRS = ["task", "bin", "policy", "budget", "example_id", "cluster", "control", "treated"]
WHAT = "pairs"


@dataclass(frozen=True)
class Judged:
    """Cells and pooled rows with their results, and the rows and transitions made of them."""

    results: dict[CellKey, CellResult]
    rows: dict[CellKey, CellRow]
    transitions: list[TransitionRow]


def judge_pairs(
    table: pd.DataFrame, *, margin: float, alpha: float, correction: Correction = "holm"
) -> JudgedPairs:
    """Judge a table of paired scores from any harness.

    Args:
        table: columns task, bin, policy, budget, example_id, cluster, control, treated, and
            optionally variant and measure; one row per example of a cell. Where control and
            treated are the least that scores can be: control_high and treated_high, the most.
        margin: the loss that is still acceptable.
        alpha: two-sided error rate.
        correction: over the cells of this call; each measure is a family of its own.

    Returns:
        The shape of `summary.json`, with empty integrity, efficiency and provenance.

    Raises:
        UsageError: missing columns, duplicates, empty values, scores outside [0, 1], wrong rules.
    """
    rules = Rules(margin, alpha, correction=correction)
    families = [
        judge_cells(split_cells(rows), {}, rules)
        for _, rows in checked_pairs(table).groupby("measure", sort=False)
    ]
    for judged in families:
        for key, row in judged.rows.items():
            row["flags"] += flags_of_result(judged.results[key], rules)
    return {
        "cells": [row for judged in families for row in judged.rows.values()],
        "transitions": [row for judged in families for row in judged.transitions],
        "integrity": {},
        "efficiency": {},
        "provenance": {},
        "partial": False,
    }


def checked_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The table with numbers as numbers, a variant and a measure, or a refusal.

    Raises:
        UsageError: as `judge_pairs`.
    """
    require_columns(table, PAIRS, WHAT)
    if not len(table):
        raise UsageError("pairs: the table has no rows.", "One row per example and cell is needed.")
    kept = table[PAIRS].copy()
    highs = HIGHS if any(column in table for column in HIGHS) else []
    for column in highs:
        kept[column] = table.get(column, kept[column.removesuffix(HIGH)])
    for column, usual in (("variant", ""), ("measure", SCORE)):
        kept[column] = table[column].replace("", usual).fillna(usual) if column in table else usual
    _refuse_measures(kept)
    for column in ("bin", "budget", "control", "treated", *highs):
        kept[column] = numbers(kept, column, WHAT)
    refuse_empty(kept, PAIRS, WHAT)
    for column in highs:
        least = kept[column.removesuffix(HIGH)]
        kept[column] = kept[column].fillna(least)
        refuse_below(kept, column, least, WHAT)
    for column in ("control", "treated", *highs):
        refuse_outside(kept, column, 0, 1, WHAT)
    refuse_budgets(kept, WHAT)
    kept["bin"] = whole_numbers(kept, "bin", WHAT)
    refuse_duplicates(kept, [*CELL, "example_id"], WHAT)
    return kept


def _refuse_measures(table: pd.DataFrame) -> None:
    """Refuse what is no share that is 1 where nothing moved: it would be judged the wrong way."""
    valid = (SCORE, *JUDGED)
    bad = (~table["measure"].isin(valid)).to_numpy()
    if bad.any():
        at = int(bad.argmax())
        name = str(table["measure"].iloc[at])
        raise UsageError(
            f"{WHAT}: measure of row {at} is {brief(name)}.",
            f"{did_you_mean(name.strip().lower(), valid)}Valid: {', '.join(valid)}. Distances, of "
            "which less is better (KLD, perplexity), are not judged.",
        )


def judge_cells(
    cells: Mapping[CellKey, CellPairs],
    excluded: Mapping[CellKey, str],
    rules: Rules,
    worst: Mapping[CellKey, CellPairs] = MappingProxyType({}),
) -> Judged:
    """Judge cells, their pooled rows and their transitions.

    Args:
        cells: the pairs of each treated cell.
        excluded: cells that count as not measured, with the reason.
        rules: margin, alpha, correction, planned cells.
        worst: of cells that lost pairs to failures: these too, counted as losses.
    """
    results = judge_each(cells, worst, {**at_floor(cells, rules), **excluded}, rules)
    pooled = judge_over_bins(cells, worst, results, rules)
    verdicts = _verdicts(results, pooled, rules)
    everything = {**results, **pooled}
    rows = {key: cell_row(key, result, verdicts[key]) for key, result in everything.items()}
    flag_pools(rows, results)
    return Judged(everything, rows, transitions(cells, results, pooled, verdicts, rules))


def judged_rows(
    cells: Mapping[CellKey, CellPairs], rules: Rules, worst: Mapping[CellKey, CellPairs]
) -> dict[CellKey, CellRow]:
    """The rows of `judge_cells` alone, without what a ladder's resampling costs."""
    results = judge_each(cells, worst, at_floor(cells, rules), rules)
    pooled = judge_over_bins(cells, worst, results, rules)
    verdicts = _verdicts(results, pooled, rules)
    return {key: cell_row(key, one, verdicts[key]) for key, one in {**results, **pooled}.items()}


def _verdicts(
    results: Mapping[CellKey, CellResult], pooled: Mapping[CellKey, CellResult], rules: Rules
) -> dict[CellKey, Verdict]:
    return {
        **family_verdicts(results, rules.planned_cells or 0, rules),
        **family_verdicts(pooled, rules.planned_rows or 0, rules),
    }


def at_floor(cells: Mapping[CellKey, CellPairs], rules: Rules) -> dict[CellKey, str]:
    """Why no loss could show in a cell, in words, for each of which that is so."""
    found = {
        key: nothing_to_lose(
            pairs.control,
            pairs.clusters,
            chance=pairs.chance,
            floor=rules.control_floor,
            margin=rules.margin,
            alpha=rules.alpha,
            anytime=rules.anytime,
            largest=pairs.largest,
            retain=rules.retain,
        )
        for key, pairs in cells.items()
    }
    return {key: why for key, why in found.items() if why}


def flag_pools(rows: Mapping[CellKey, CellRow], results: Mapping[CellKey, CellResult]) -> None:
    """Say on each row over bins which bins of its task it lacks."""
    for key, row in rows.items():
        if not key.is_pooled or not row["n"]:
            continue
        bins = {
            k.bin
            for k in results
            if k._replace(bin=key.bin, policy=key.policy, budget=key.budget) == key
        }
        lacking = sorted(
            bin_
            for bin_ in bins
            if (cell := results.get(key._replace(bin=bin_))) is None
            or cell.verdict == "not-measured"
        )
        if lacking:
            named = ", ".join(map(str, lacking))
            row["flags"].append(f"partial-pool: bins {named} were not measured and are not in it")
