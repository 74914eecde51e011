"""Whether a result can be believed: counts that must add up, a noise floor, warnings in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from pytest_kvbench.analyse.pairs import measured_pairs, pair_controls
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.tables import GROUP
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.rows import CellRow, Integrity, NoiseFloor, TransitionRow

NAMED = 3  # cells named in a note; the rest are counted
IN_PLACEBOS = {"placebo", "twin"}  # codes listed in `placebos`, not in `notes`


def integrity(
    table: pd.DataFrame,
    rows: Iterable[CellRow],
    transitions: Iterable[TransitionRow],
    twins: Sequence[tuple[CellKey, CellKey, str]],
    rules: Rules,
) -> Integrity:
    """Counts, `placebos`, `notes` and `aa` (None where the control ran once).

    Args:
        table: checked observations; answers + failures == requests.
        rows: the rows of single cells, with flags.
        transitions: the rows of ladders.
        twins: arms that answer alike.
        rules: margin and alpha, for the A/A difference.
    """
    rows = list(rows)
    failed = table["failure"] != ""
    return {
        "requests": len(table),
        "answers": int((~failed).sum()),
        "failures": counts(table.loc[failed, "failure"]),
        "labels": counts(table.loc[~failed & (table["label"] != ""), "label"]),
        "placebos": [*placebos(rows), *(f"{a.task} bin {a.bin}: {said}" for a, _, said in twins)],
        "notes": [*flag_notes(rows), *shape_notes(transitions)],
        "aa": noise_floor(table, rules),
    }


def counts(values: pd.Series[Any]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return {str(value): int(n) for value, n in values.value_counts().items()}


def where(row: CellRow) -> str:
    """A cell in words."""
    variant = f" {row['variant']}" if row["variant"] else ""
    return f"{row['task']} bin {row['bin']} {row['policy']} {row['budget']:g}{variant}"


def placebos(rows: Iterable[CellRow]) -> list[str]:
    """A sentence for every cell flagged as a placebo; on a row over bins where no bin of it is."""
    found = {
        (row["task"], row["variant"], row["policy"], row["budget"], row["bin"]): (row, said)
        for row in rows
        for code, _, said in (flag.partition(": ") for flag in row["flags"])
        if code == "placebo"
    }
    of_bins = {key[:-1] for key in found if key[-1] != ALL_BINS}
    named = [found[key] for key in found if key[-1] != ALL_BINS or key[:-1] not in of_bins]
    return [f"{where(row)}: {said}" for row, said in named]


def flag_notes(rows: Iterable[CellRow]) -> list[str]:
    """One sentence per kind of flag: which cells raised it, and what it says of the first."""
    raised: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for flag in row["flags"]:
            code, _, said = flag.partition(": ")
            if code not in IN_PLACEBOS:
                raised.setdefault(code, []).append((where(row), said))
    return [f"{code}: {flag_note(cells)}" for code, cells in raised.items()]


def flag_note(cells: Sequence[tuple[str, str]]) -> str:
    """What is said of the first cell, and the names of the others, a few of them in full."""
    (first, said), *others = cells
    named = ", ".join(name for name, _ in others[:NAMED])
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"{first}: {said}{f' (also {named}{more})' if others else ''}."


def shape_notes(transitions: Iterable[TransitionRow]) -> list[str]:
    """A sentence for every ladder where less cache was better than more."""
    return [
        f"non-monotone: {row['task']} bin {row['bin']} {row['policy']}: a smaller budget scores "
        "better than a larger one; a bracket assumes that quality falls with the budget."
        for row in transitions
        if row["shape"] == "non-monotone"
    ]


def noise_floor(table: pd.DataFrame, rules: Rules) -> NoiseFloor | None:
    """The difference of the control's second run from its first, over all tasks and bins."""
    pairs = measured_pairs(pair_controls(table))
    if pairs.empty:
        return None
    strata = [
        Pairs(*(rows[c].to_numpy() for c in ("control", "treated", "cluster")))
        for _, rows in pairs.groupby(GROUP, sort=True)
    ]
    result = judge_pooled(strata, margin=rules.margin, alpha=rules.alpha, anytime=rules.anytime)
    return {
        "n": result.n,
        "delta": result.delta,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "losses": result.losses,
        "gains": result.gains,
        "method": result.method,
        "tasks": dict(sorted(Counter(pairs["task"]).items())),
    }
