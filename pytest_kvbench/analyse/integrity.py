"""Whether a result can be believed: counts that must add up, a noise floor, warnings in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from pytest_kvbench.analyse.same_answers import Twins
from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.records import SCORE, named_only
from pytest_kvbench.rows import CellRow, Integrity, NoiseFloor, Outcomes, TransitionRow

NAMED = 3  # cells named in a note; the rest are counted
IN_PLACEBOS = {"placebo", "twin"}  # codes listed in `placebos`, not in `notes`


def integrity(
    table: pd.DataFrame,
    rows: Iterable[CellRow],
    transitions: Iterable[TransitionRow],
    alike: Sequence[Twins],
    floor: NoiseFloor | None,
) -> Integrity:
    """Counts, `placebos`, `notes` and `aa` (None where the control ran once).

    Args:
        table: checked observations; answers + failures == requests.
        rows: the rows of single cells, with flags.
        transitions: the rows of ladders.
        alike: arms that answer alike.
        floor: of the control beside its own second run.
    """
    rows, whole = list(rows), outcomes(table)
    return {
        "requests": whole["requests"],
        "answers": whole["answers"],
        "failures": whole["failures"],
        "labels": whole["labels"],
        "placebos": [*placebos(rows), *one_treatment(alike)],
        "notes": [*flag_notes(rows), *shape_notes(transitions)],
        "aa": floor,
    }


def outcomes(table: pd.DataFrame) -> Outcomes:
    """What became of all requests."""
    failed = table["failure"] != ""
    return {
        "requests": len(table),
        "answers": int((~failed).sum()),
        "failures": counts(table.loc[failed, "failure"]),
        "labels": counts(table.loc[~failed & (table["label"] != ""), "label"]),
    }


def counts(values: pd.Series[Any]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return {str(value): int(n) for value, n in values.value_counts().items()}


def where(row: CellRow) -> str:
    """A cell in words."""
    named = [row["task"], f"bin {row['bin']}", row["policy"], f"{row['budget']:g}"]
    return " ".join([*named, *named_only(row["variant"], row.get("measure", SCORE))])


def placebos(rows: Iterable[CellRow]) -> list[str]:
    """A sentence for every cell flagged as a placebo; on a row over bins where no bin of it is."""
    found = {
        (row["task"], row["variant"], row["policy"], row["budget"], row["bin"]): (row, sentence)
        for row in rows
        for code, _, sentence in (flag.partition(": ") for flag in row["flags"])
        if code == "placebo"
    }
    of_bins = {key[:-1] for key in found if key[-1] != ALL_BINS}
    named = [found[key] for key in found if key[-1] != ALL_BINS or key[:-1] not in of_bins]
    return [f"{where(row)}: {sentence}" for row, sentence in named]


def one_treatment(alike: Sequence[Twins]) -> list[str]:
    """A sentence for every two arms that may be one; over all bins where no bin says so."""
    of_bins = {(a.pooled, b.pooled) for a, b, _ in alike if not a.is_pooled}
    named = [found for found in alike if found[:2] not in of_bins]
    return [f"{found.one.task} bin {found.one.bin}: {found.said}" for found in named]


def flag_notes(rows: Iterable[CellRow]) -> list[str]:
    """One sentence per kind of flag: which cells raised it, and what it says of the first."""
    raised: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        for flag in row["flags"]:
            code, _, sentence = flag.partition(": ")
            if code not in IN_PLACEBOS:
                raised.setdefault(code, []).append((where(row), sentence))
    return [f"{code}: {flag_note(cells)}" for code, cells in raised.items()]


def flag_note(cells: Sequence[tuple[str, str]]) -> str:
    """What is said of the first cell, and the names of the others, a few of them in full."""
    (first, sentence), *others = cells
    named = ", ".join(name for name, _ in others[:NAMED])
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"{first}: {sentence}{f' (also {named}{more})' if others else ''}."


def shape_notes(transitions: Iterable[TransitionRow]) -> list[str]:
    """A sentence for every ladder where less cache was better than more."""
    return [
        f"non-monotone: {row['task']} bin {row['bin']} {row['policy']}: a smaller budget scores "
        "better than a larger one; a bracket assumes that quality falls with the budget."
        for row in transitions
        if row["shape"] == "non-monotone"
    ]
