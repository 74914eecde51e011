"""Answers as rows of a group's database: the reply, what it cost, what its distributions are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import asdict

from pytest_kvbench.divergence.records import Divergence, UnsoundError
from pytest_kvbench.records import Answer, Telemetry, canonical
from pytest_kvbench.store.database import Database

ANSWERS = (
    "SELECT * FROM answers JOIN telemetry USING (key) LEFT JOIN divergences USING (key)"
    " WHERE key IN ({})"
)


def save_answers(db: sqlite3.Connection, answers: Iterable[Answer], origin: str) -> None:
    """Store answers; one that is there already stays as it is."""
    for answer in answers:
        inserted = db.execute(
            "INSERT INTO answers (key, text, finish_reason, reasoning, origin, run)"
            " VALUES (?,?,?,?,?,(SELECT coalesce(max(rowid), 0) FROM experiments))"
            " ON CONFLICT DO NOTHING",
            (answer.key, answer.text, answer.finish_reason, answer.reasoning, origin),
        ).rowcount
        if inserted:
            _save_rest(db, answer)


def _save_rest(db: sqlite3.Connection, answer: Answer) -> None:
    telemetry = asdict(answer.telemetry)
    db.execute(
        f"INSERT INTO telemetry (key, {', '.join(telemetry)})"  # noqa: S608 -- names of our own record's fields
        f" VALUES (?{',?' * len(telemetry)})",
        (answer.key, *telemetry.values()),
    )
    if answer.divergence is not None:
        payload = canonical(answer.divergence.to_json()).decode()
        db.execute("INSERT INTO divergences VALUES (?,?)", (answer.key, payload))


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
