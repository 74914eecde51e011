"""Answers as rows of a group's database: the reply, what it cost, what its distributions are."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter

from pytest_kvbench.divergence.records import Divergence, UnsoundError
from pytest_kvbench.records import Answer, Telemetry, canonical
from pytest_kvbench.store.database import Database

ANSWERS = (
    "SELECT * FROM answers JOIN telemetry USING (key) LEFT JOIN divergences USING (key)"
    " WHERE key IN ({})"
)


_COSTS = tuple(Telemetry.__dataclass_fields__)
_INSERT_COSTS = (
    f"INSERT INTO telemetry (key, {', '.join(_COSTS)})"  # noqa: S608 -- names of our own record's fields
    f" VALUES (?{',?' * len(_COSTS)}) ON CONFLICT DO NOTHING"
)


def save_answers(db: sqlite3.Connection, answers: Sequence[Answer], origin: str) -> None:
    """Store answers; one that is there already stays as it is, with all that belongs to it."""
    run = db.execute("SELECT coalesce(max(rowid), 0) FROM experiments").fetchone()[0]
    db.executemany(
        "INSERT INTO answers (key, text, finish_reason, reasoning, origin, run)"
        " VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING",
        [(a.key, a.text, a.finish_reason, a.reasoning, origin, run) for a in answers],
    )
    costs = attrgetter(*_COSTS)
    db.executemany(_INSERT_COSTS, [(a.key, *costs(a.telemetry)) for a in answers])
    compared = [(a.key, a.divergence) for a in answers if a.divergence is not None]
    db.executemany(
        "INSERT INTO divergences VALUES (?,?) ON CONFLICT DO NOTHING",
        [(key, canonical(found.to_json()).decode()) for key, found in compared],
    )


def answer_of(db: Database, row: sqlite3.Row) -> Answer:
    """The answer of a row of `ANSWERS`."""
    return Answer(
        row["key"],
        row["text"],
        row["finish_reason"],
        Telemetry(**{name: row[name] for name in Telemetry.__dataclass_fields__}),
        row["reasoning"],
        divergence_of(db, row["payload"]),
    )


def divergence_of(db: Database, payload: str | None) -> Divergence | None:
    """What a payload holds; None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return None if payload is None else Divergence.from_json(db.parsed(payload, dict))
    except UnsoundError as error:
        raise db.damaged(str(error)) from None
