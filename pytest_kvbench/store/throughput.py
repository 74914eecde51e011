"""What came of a run, how fast, and how long it waited for leave to ask."""

from __future__ import annotations

from pytest_kvbench.rows import Throughput
from pytest_kvbench.store.database import Database

_SINCE = "run >= (SELECT rowid FROM experiments WHERE run_id = ?)"  # no time: clocks are set back
_LANDED = f"""
    SELECT count(*) FROM (
        SELECT run FROM answers UNION ALL SELECT run FROM failures
    ) WHERE {_SINCE}
"""  # noqa: S608 -- our own condition
_OF_RUN = f"""
    SELECT total(1.0 / coalesce(t.arms_in_request, 1)), total(t.waited_s),
        (julianday(max(created_at)) - julianday(min(created_at))) * 86400
    FROM (
        SELECT key, created_at, run FROM answers WHERE origin = 'engine'
        UNION ALL SELECT key, created_at, run FROM failures
    ) LEFT JOIN telemetry t USING (key)
    WHERE {_SINCE}
"""  # noqa: S608 -- our own condition
_LAST = """
    SELECT max(created_at) FROM (
        SELECT created_at FROM answers UNION ALL SELECT created_at FROM failures
    )
"""


def landed(db: Database, run_id: str) -> int:
    """Answers and failures that came since a run began, from the engine or a shared control."""
    return int(db.read(_LANDED, (run_id,))[0][0])


def last_outcome_at(db: Database) -> str | None:
    """The time of the last answer or failure that came, as stored; None where none did."""
    found: str | None = db.read(_LAST)[0][0]
    return found


def of_run(db: Database, run_id: str) -> Throughput:
    """`requests` that came back from the engine, `requests_per_minute` between the first and the
    last of them (None for fewer than two), `waited_s` for rate limits, all requests together.
    """
    requests, waited, seconds = db.read(_OF_RUN, (run_id,))[0]
    rate = (requests - 1) * 60 / seconds if requests > 1 and seconds else None
    return {
        "requests": round(requests),
        "requests_per_minute": None if rate is None else round(rate, 2),
        "waited_s": round(waited, 3),
    }
