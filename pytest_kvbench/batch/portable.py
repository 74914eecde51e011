"""The same files without a provider: written for any program that runs them, and read back.

`vllm run-batch` takes one file for one server, so each arm's server has files of its own.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pytest_kvbench.batch.desk import desk
from pytest_kvbench.batch.files import OPENAI, Lane, Limits, Splitter, Written
from pytest_kvbench.batch.lines import Writer
from pytest_kvbench.batch.results import Taken, results, take
from pytest_kvbench.batch.wanted import missing, share_control, share_controls
from pytest_kvbench.files import CONTROLS
from pytest_kvbench.pipeline.driver import drivers
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.store import Store


def export(prepared: Prepared, folder: Path, limits: Limits = OPENAI) -> list[Written]:
    """Write what has no answer and is in no open batch; the files.

    They are not in the ledger, as nothing says what becomes of them: what is exported twice is
    asked twice.

    Raises:
        StoreError: a file cannot be written.
    """
    numbers: Counter[str] = Counter()
    files: list[Written] = []

    def place(lane: Lane) -> Path:
        numbers[lane.slug] += 1
        name = f"{prepared.experiment.group}-{lane.slug}-{numbers[lane.slug]:03}.jsonl"
        return folder / name

    with desk(prepared) as open_desk, contextlib.closing(open_desk.open_keys()) as taken:
        writer = Writer(prepared.experiment)
        with Splitter(place, files.append, limits) as splitter:
            for driver in drivers(prepared):
                share_control(driver, open_desk.store, open_desk.controls)
                for request in missing(driver, open_desk.store, taken):
                    splitter.add(*writer.line(prepared.sent(request)))
    return files


def take_files(prepared: Prepared, paths: Sequence[Path]) -> Taken:
    """Store the results in files; what was never asked of the group is counted and left.

    Raises:
        UsageError: a file holds no results.
    """
    shared = SharedControls(prepared.folder / CONTROLS)
    with Store(prepared.database) as store:
        found = results(paths, prepared.experiment.engine, given=True)
        taken = take(store, found, store.requested)
        share_controls(prepared, store, shared)
    return taken
