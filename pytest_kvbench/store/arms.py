"""What requests have in common, as rows of a group's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from pytest_kvbench.records import Arm, canonical, to_json


def save_arms(db: sqlite3.Connection, arms: Iterable[tuple[Arm, str | None]]) -> None:
    """Record arms and their addresses; one that is known keeps its own where none is given."""
    db.executemany(
        "INSERT INTO arms VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE"
        " SET base_url=excluded.base_url WHERE excluded.base_url IS NOT NULL",
        (_row(arm, base_url) for arm, base_url in arms),
    )


def _row(arm: Arm, base_url: str | None) -> tuple[Any, ...]:
    return (
        arm.arm_id,
        arm.engine,
        arm.model,
        base_url,
        arm.policy,
        arm.budget,
        arm.question_aware,
        canonical(arm.params).decode(),
        canonical(to_json(arm.sampling)).decode(),
        arm.variant,
        arm.template_version,
        arm.fingerprint,
        arm.method,
    )
