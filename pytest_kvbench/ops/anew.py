"""Arms that are asked anew, for runs that were taken out of the store.

They are asked in a copy of their group that lacks their answers, with the same requests, so that
the run keeps its name and its control. The group itself stays as it is. The copy is kept below the
store until the run is there: whoever was interrupted goes on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from pytest_kvbench import hints
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.files import make_folder
from pytest_kvbench.hints import command
from pytest_kvbench.ops.run_names import NamedRun, named_runs
from pytest_kvbench.ops.target_store import RunStore
from pytest_kvbench.pipeline import ask
from pytest_kvbench.pipeline.conclude import score_plan
from pytest_kvbench.pipeline.group import Prepared, Site, check_engine, now, source_of
from pytest_kvbench.records import Cell, digest
from pytest_kvbench.store.store import DATABASE, RunRow, Store
from pytest_kvbench.store.unanswered import copy_unanswered

ASKED = ".fresh"
"""Below the store: copies of groups whose arms are being asked."""

Counting = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Of so many answers, what is to be told how many more have come: `report.progress.counting`."""


@contextlib.contextmanager
def asked_anew(
    prepared: Prepared, root: Path, site: Site, counting: Counting
) -> Iterator[tuple[Prepared, int]]:
    """A group in which the arms whose runs the store lacks have answers of this moment.

    Args:
        prepared: answered; its rules name the runs.
        root: the store's folder.
        site: from where its server is reached; its `run_id` names the asking.
        counting: shows how many answers came.

    Returns:
        For the block, the group to build runs from and how many arms were asked; the group itself
        and 0 where the store lacks none. The copy is gone after a block that ends well.

    Raises:
        UsageError: the group is asked in batches, or its server is another one now.
        EngineError: the server is gone or requests fail; what was answered is kept for the next
            time.
    """
    store = RunStore(root)
    damaged = store.damaged()
    places = [(run, store.run(run.target, run.name)) for run in named_runs(prepared)[0]]
    lacking = [run for run, place in places if not place.exists() or place in damaged]
    if not lacking:
        yield prepared, 0
        return
    _check(prepared, site)
    names = sorted(run.name for run in lacking)
    place = root / ASKED / f"{prepared.experiment.group}-{digest(names)[:12]}"
    yield _answered(prepared, lacking, place, site, counting), len(lacking)
    shutil.rmtree(place)


def _check(prepared: Prepared, site: Site) -> None:
    experiment = prepared.experiment
    if experiment.engine.mode == "batch":
        raise UsageError(
            f"group {experiment.group}: --fresh asks an arm at once, and engine.mode is batch",
            f"ask all of it again, as a new trial: {command('all', prepared.folder)} --fresh",
        )
    check_engine(experiment, site)
    if source_of(experiment, site).fingerprint() != prepared.fingerprint:
        raise UsageError(
            f"group {experiment.group}: its server is another one than the one that answered it, "
            "and an arm of it would be another run",
            f"let the group be answered by this one: {command('run', prepared.folder)}",
        )


def _answered(
    prepared: Prepared, lacking: Collection[NamedRun], place: Path, site: Site, counting: Counting
) -> Prepared:
    wanted = {(run.variant, run.arm.policy, run.arm.budget) for run in lacking}
    cells = [c for c in prepared.cells if (c.variant, c.policy, c.budget) in wanted]
    make_folder(place, lambda room: _copy(prepared, cells, site, room))
    copy = replace(prepared, folder=place)
    with counting(len(copy.requests(cells))) as come:
        ran = ask.run(copy, site, come, cells)
    for sick in ran.sick:
        raise sick
    if failed := ran.tally.failed:
        raise EngineError(
            f"group {prepared.experiment.group}: {hints.count(failed, 'request')} failed, "
            f"so no run is made",
            "the same again asks those alone",
        )
    score_plan(copy)
    return copy


def _copy(prepared: Prepared, cells: Sequence[Cell], site: Site, room: Path) -> None:
    treated = [request.key for cell, request in prepared.requests(cells) if cell in cells]
    copy_unanswered(prepared.database, room / DATABASE, treated)
    run = RunRow(
        run_id=site.run_id,
        snapshot=prepared.experiment.snapshot(),
        fingerprint=prepared.fingerprint,
        replicate_offset=prepared.replicate_offset,
        command=site.command,
        started_at=now(),
    )
    with Store(room / DATABASE) as store:
        store.start_run(run)
