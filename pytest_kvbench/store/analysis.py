"""What analysis made of the scores, as rows of a group's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.records import SCORE, canonical
from pytest_kvbench.rows import BinStats, CellRow, TransitionRow


def save(
    db: sqlite3.Connection,
    bin_stats: Sequence[BinStats],
    cells: Sequence[CellRow],
    transitions: Sequence[TransitionRow],
) -> None:
    """Replace the stored rows of an analysis by new ones."""
    named = [{**cell, "bin": str(cell["bin"])} for cell in cells]
    for table in ("bin_stats", "verdicts", "transitions"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 -- literals
    db.executemany(
        "INSERT INTO bin_stats VALUES (?,?,?,?,?,?,?,?,?)",
        _rows(bin_stats, (*CellKey._fields, "n", "acc_mean")),
    )
    db.executemany(
        "INSERT INTO verdicts VALUES (?,?,?,?,?,?,?,?,?)",
        _rows(named, (*CellKey._fields, "delta", "verdict")),
    )
    db.executemany(
        "INSERT INTO transitions VALUES (?,?,?,?,?,?,?)",
        [
            (task, str(bin_), *rest)
            for task, bin_, *rest in _rows(
                transitions, ("task", "bin", "policy", "measure", "b_safe", "b_broken")
            )
        ],
    )


def _rows(records: Sequence[Mapping[str, object]], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The columns, and the whole record as JSON."""
    told = [{"measure": SCORE, **r} for r in records]
    return [
        (*(every.get(c) for c in columns), canonical(r).decode())
        for every, r in zip(told, records, strict=True)
    ]
