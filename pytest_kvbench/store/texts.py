"""Answers and failures as a group stores them: where its last run wants no texts, their hashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pytest_kvbench.records import Answer, Failure
from pytest_kvbench.store.database import Database
from pytest_kvbench.wire.hashed import hashed, hashed_message


def of_answers(db: Database, answers: Sequence[Answer]) -> Sequence[Answer]:
    """What is stored of answers."""
    return answers if _keeps_texts(db) else [_without_texts(answer) for answer in answers]


def of_failures(db: Database, failures: Iterable[Failure]) -> Iterable[Failure]:
    """What is stored of failures."""
    return failures if _keeps_texts(db) else [_without_words(failure) for failure in failures]


def _keeps_texts(db: Database) -> bool:
    rows = db.read("SELECT snapshot FROM experiments ORDER BY rowid DESC LIMIT 1")
    snapshot = db.parsed(rows[0][0], dict) if rows else {}
    return bool(snapshot.get("store", {}).get("texts") != "hash")


def _without_texts(answer: Answer) -> Answer:
    note = hashed_message(answer.telemetry.note)
    distances = answer.divergence
    return replace(
        answer,
        text=hashed(answer.text),
        reasoning=hashed(answer.reasoning),
        telemetry=replace(answer.telemetry, note=note),
        divergence=None if distances is None else distances.without_tokens(),
    )


def _without_words(failure: Failure) -> Failure:
    """A timeout's message is ours; another may repeat what was sent."""
    if failure.kind == "TIMEOUT":
        return failure
    return replace(failure, message=hashed_message(failure.message))
