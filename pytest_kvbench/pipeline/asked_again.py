"""Whether stored answers may speak for the engine as it is now.

A gate and a comparison judge the server that is there. One that cannot be told apart by what it
says may have been replaced since, so they ask it again: as a new trial, which is theirs alone. A
run that was interrupted, or waits for its batches, is gone on with.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from pytest_kvbench.engines.fingerprint import is_unambiguous
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline.group import Site, prepared_from
from pytest_kvbench.store.store import RunRow, Store


def is_due(experiment: Experiment, site: Site, fingerprint: Mapping[str, str]) -> bool:
    """Whether a run must not take over what was answered before it."""
    judges = site.compares or experiment.gate.mode != "measure"
    return judges and not is_unambiguous(fingerprint)


def goes_on(store: Store, experiment: Experiment, site: Site) -> bool:
    """Whether the run before asked again too and has not come to its end."""
    runs = store.runs()
    if not runs or not _is_open(store, runs[-1], experiment, site):
        return False
    warnings.warn(
        f"group {experiment.group}: goes on with the run that began at {runs[-1].started_at}; "
        "what was answered since then is not asked again (--kvbench-fresh asks everything)",
        stacklevel=3,
    )
    return True


def _is_open(store: Store, run: RunRow, experiment: Experiment, site: Site) -> bool:
    if not run.asks_again or run.finished_at is not None:
        return False
    if set(run.snapshot["tasks"]) != set(experiment.tasks):
        return False
    keys = [r.key for _, r in prepared_from(store, run, site.tasks).each_request()]
    return len(store.settled(keys)) < len(set(keys))
