"""Whether stored answers may speak for the engine as it is now.

A gate and a comparison judge the server that is there. One that cannot be told apart by what it
says may have been replaced since, so they ask it again: as a new trial, which is theirs alone. A
run that has no verdict yet, because it was interrupted or waits for its batches, is gone on with;
a live one for a day after its last answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile

from pytest_kvbench.engines.fingerprint import is_unambiguous
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.pipeline.group import Site, now
from pytest_kvbench.store.store import RunRow, Store

LIVES_H = 24
"""Hours without an answer after which an interrupted live run is not gone on with."""


def is_due(experiment: Experiment, site: Site, fingerprint: Mapping[str, str]) -> bool:
    """Whether a run must not take over what was answered before it."""
    judges = site.compares or experiment.gate.mode != "measure"
    return judges and not is_unambiguous(fingerprint)


def goes_on(store: Store, experiment: Experiment) -> bool:
    """Whether the run before asked again too, and its verdict is still to come."""
    runs = store.runs()
    if not runs or not _is_open(runs[-1], experiment):
        return False
    since = first_of_trial(runs).started_at
    is_live, age_h = experiment.engine.mode == "live", _age_h(store, runs[-1])
    if is_live and age_h > LIVES_H:
        warnings.warn(
            f"group {experiment.group}: the run that began at {since} came to no end, and no "
            f"answer for {age_h:,.0f} hours, more than {LIVES_H}: all is asked anew",
            stacklevel=3,
        )
        return False
    warnings.warn(
        f"group {experiment.group}: goes on with the run that began at {since}; "
        "what was answered since then is not asked again (--kvbench-fresh asks everything)",
        stacklevel=3,
    )
    return True


def first_of_trial(runs: Sequence[RunRow]) -> RunRow:
    """The run with which that of the last one's answers began which are not those of runs before.

    Args:
        runs: all of a group, in their order; not empty.
    """
    last = runs[-1]
    if not last.asks_again:
        return last
    return [*takewhile(lambda run: _is_of_trial(run, last), reversed(runs))][-1]


def settle(store: Store, *, is_complete: bool) -> list[RunRow]:
    """All runs of a group that gets its verdict now: with all answers there, the last one ends."""
    last = store.runs()[-1]
    if is_complete and last.finished_at is None:
        store.finish_run(last.run_id, now())
    return store.runs()


def answers_since(runs: Sequence[RunRow]) -> str | None:
    """Since when a run that asks again takes answers; None where it takes its own alone."""
    since = first_of_trial(runs).started_at
    return None if since == runs[-1].started_at else since


def _is_of_trial(run: RunRow, last: RunRow) -> bool:
    return run.asks_again and run.replicate_offset == last.replicate_offset


def _is_open(run: RunRow, experiment: Experiment) -> bool:
    is_same = set(Snapshot(run.snapshot).tasks) == set(experiment.tasks)
    return run.asks_again and run.finished_at is None and is_same


def _age_h(store: Store, run: RunRow) -> float:
    """Hours since a run began, or since the last answer or failure that came, if later."""
    last = max(run.started_at, store.last_outcome_at() or "")
    return (datetime.now(UTC) - datetime.fromisoformat(last)).total_seconds() / 3600
