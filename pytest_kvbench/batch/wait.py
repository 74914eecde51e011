"""Wait until answers are there: for which targets, how often one looks, and until when.

Nobody has to be at work at every moment (a run is only starting, the next group's turn comes
later), so the wait ends without an answer only where several looks in a row found nobody at work
on anything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench.batch.ledger import Batch, Ledger, refuse_foreign
from pytest_kvbench.batch.targets import NO_TASKS, Batches, Group, Look, OneBatch, Process, Target
from pytest_kvbench.errors import GuardError, KvbenchError, UsageError
from pytest_kvbench.pipeline.find import find_declared, groups_of
from pytest_kvbench.pipeline.group import group_folder
from pytest_kvbench.store.places import group_folders
from pytest_kvbench.store.presence import at_work
from pytest_kvbench.tasks.registry import TaskFactory

LOOKS = 5
"""Looks in a row without anybody at work that end the wait. A run takes seconds to start."""

PID = "pid:"


@dataclass(frozen=True)
class Pace:
    """How long between two looks, between two questions to a provider, and altogether."""

    every_s: float = 2.0
    ask_s: float = 30.0
    timeout_s: float | None = None


def find(
    names: Sequence[str],
    reports: Path,
    pace: Pace,
    tasks: Mapping[str, TaskFactory] = NO_TASKS,
) -> tuple[Target, ...]:
    """The targets of those names, each once.

    A name is that of a group in `reports` or an experiment file (a sweep is all its stages), a
    batch's, or a process's number: `pid:1234`, or bare where no group is called so.

    Raises:
        UsageError: a name is none of these, naming what there is.
        ExperimentError: a file is no experiment.
        GuardError: open batches came with a restored group that nobody has confirmed.
    """
    desks: dict[Path, Batches] = {}
    found: dict[str, Target] = {}

    def batches(folder: Path) -> Batches:
        refuse_foreign(folder)
        return desks.setdefault(folder, Batches(folder, pace.ask_s, tasks))

    for name in names:
        for target in _named(name, reports, batches):
            found.setdefault(target.name, target)
    return tuple(found.values())


def _named(name: str, reports: Path, batches: Callable[[Path], Batches]) -> Iterator[Target]:
    number = name.removeprefix(PID)
    if groups := groups_of(name, reports):
        yield from (Group(batches(reports / group)) for group in groups)
    elif Path(name).suffix in {".yaml", ".yml"}:
        for declared in find_declared(name, reports):
            yield Group(batches(group_folder(declared.experiment, reports)))
    elif number.isdecimal() and number.isascii():
        yield Process(int(number))
    else:
        folder, batch = _batch(name, reports)
        yield OneBatch(batches(folder), batch)


def _batch(name: str, reports: Path) -> tuple[Path, Batch]:
    """The batch of that name, ours or its provider's, and its group's folder."""
    folders = group_folders(reports)
    batches = []
    for folder in folders:
        with contextlib.suppress(GuardError):  # of a group that nobody has named
            batches += [(folder, batch) for batch in Ledger(folder).batches]
    for folder, batch in batches:
        if name in (batch.id, batch.batch_id):
            return folder, batch
    open_batches = [batch.name for _, batch in batches if batch.is_open]
    raise UsageError(
        f"{name!r} is no group and no batch in {reports}, no experiment file (.yaml), no process",
        f"groups there: {', '.join(folder.name for folder in folders) or 'none'}; "
        f"open batches: {', '.join(open_batches) or 'none'}; a process: {PID}1234",
    )


def wait(
    targets: Sequence[Target], pace: Pace, on_looks: Callable[[Mapping[str, Look]], None]
) -> dict[str, Look]:
    """Look until everything is done, nobody is at work on what is not, or time is over.

    Args:
        targets: what is waited for.
        pace: how often, and how long at most.
        on_looks: called with what the last looks found, by target's name, after each of them.

    Returns:
        What the last looks found, by target's name.
    """
    end = None if pace.timeout_s is None else time.monotonic() + pace.timeout_s
    folders = {target.folder for target in targets if target.folder is not None}
    idle = 0
    while True:
        # What was complete may be no more: another run has begun, and plans more.
        found = {target.name: _looked(target) for target in targets}
        on_looks(found)
        pending = [look for look in found.values() if not look.done]
        # Who is done with one group may come to the next.
        busy = any(look.active for look in pending) or any(at_work(f) for f in folders)
        idle = 0 if busy else idle + 1
        left = pace.every_s if end is None else end - time.monotonic()
        if not pending or idle >= LOOKS or left <= 0:
            return found
        time.sleep(min(pace.every_s, left))


def _looked(target: Target) -> Look:
    """A look at a target; where it fails, a look that names the problem."""
    try:
        return target.look()
    except KvbenchError as error:
        return Look(progress=error.what, problem=error.what, hint=error.hint)
