"""What one can wait for: a group's answers, a batch, a process.

A target is looked at now and then; it is done, or somebody is at work on it, or nobody is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import psutil

from pytest_kvbench import hints
from pytest_kvbench.batch.desk import LOCK, desk
from pytest_kvbench.batch.ledger import Batch, Ledger, strange, waiting_for
from pytest_kvbench.errors import InfrastructureError, KvbenchError
from pytest_kvbench.files import is_unconfirmed, try_lock
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline.drawn import drawn_so_far
from pytest_kvbench.pipeline.group import Prepared, open_group
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.processes import is_alive
from pytest_kvbench.store.outstanding import Count, Outstanding
from pytest_kvbench.store.presence import at_work
from pytest_kvbench.store.store import DATABASE, RunRow, Store
from pytest_kvbench.tasks.registry import TaskFactory

REFUSALS = 10
"""After so many failures to say how far a batch is, a provider is taken for gone."""

NO_TASKS: Mapping[str, TaskFactory] = MappingProxyType({})
_IDLE = "nobody is at work on it"
_WAIT = "it is being worked on: wait again, or longer"
_MOVING = frozenset({"created", "done"})
"""States of batches that go on by themselves and by being fetched: others need a submission."""


@dataclass(frozen=True)
class Look:
    """What a look found.

    `done`: nothing more will come. `active`: somebody is at work on it. `progress`: how far it is,
    in words. `problem`: what it lacks (of one that is done: for good). `hint`: what brings it.
    """

    done: bool = False
    active: bool = False
    progress: str = ""
    problem: str = ""
    hint: str = ""
    count: Count | None = None


class Target(Protocol):
    """Something that `kvbench wait` waits for."""

    @property
    def name(self) -> str:
        """The name under which it is shown."""

    @property
    def folder(self) -> Path | None:
        """That of its group, if it has one."""

    def look(self) -> Look:
        """How far it is.

        Raises:
            KvbenchError: nobody can say.
        """


class Process:
    """A process, as it is when the wait begins: another one that gets its number is not waited for.

    Args:
        pid: its number.
    """

    folder = None

    def __init__(self, pid: int) -> None:
        self.name = f"pid {pid}"
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess, OverflowError):
            self._process = psutil.Process(pid)

    def look(self) -> Look:
        """Whether the process still runs."""
        if self._process is None:
            return Look(done=True, progress="there is no such process: it had ended before")
        if is_alive(self._process):
            return Look(
                active=True, progress="runs", problem="still runs", hint="wait again, or longer"
            )
        return Look(done=True, progress="ended")


class Batches:
    """A group's batches: looked at and fetched from time to time, once for all that wait for them.

    Args:
        folder: the group's.
        every_s: between two times.
        tasks: of a conftest.
    """

    def __init__(
        self, folder: Path, every_s: float, tasks: Mapping[str, TaskFactory] = NO_TASKS
    ) -> None:
        self.folder = folder
        self.tasks = tasks
        self._every_s = every_s
        self._next = 0.0
        self._refused = 0
        self.trouble: KvbenchError | None = None

    @property
    def given_up(self) -> bool:
        """Whether there is no use in asking again."""
        return self._refused >= REFUSALS

    def look(self) -> tuple[Batch, ...]:
        """All of them, and their answers stored if it is time.

        Raises:
            GuardError: the ledger was altered.
        """
        batches = Ledger(self.folder).batches
        if time.monotonic() < self._next or not any(b.state in _MOVING for b in batches):
            return batches
        self._next = time.monotonic() + self._every_s
        self._fetch()
        return Ledger(self.folder).batches

    def _fetch(self) -> None:
        with try_lock(self.folder / LOCK) as free:
            if not free:
                return  # who is at the desk fetches by itself, or we do next time
        try:
            with desk(open_group(self.folder, self.tasks)) as open_desk:
                open_desk.fetch()
        except KvbenchError as error:
            # A night's wait outlives a provider's bad minutes; an altered file stays altered.
            self._refused += 1 if isinstance(error, InfrastructureError) else REFUSALS
            self.trouble = error
        else:
            self._refused, self.trouble = 0, None


def moves(batch: Batch) -> bool:
    """Whether a batch goes on: its provider has it and says so, or it is to be fetched."""
    return batch.state in _MOVING and not batch.is_strange


class OneBatch:
    """A batch: until it has ended and its answers are stored.

    One that failed, expired or was cancelled is done too; what it leaves unanswered is a problem.
    """

    def __init__(self, batches: Batches, batch: Batch) -> None:
        self.name = batch.name
        self.folder = batches.folder
        self._batches = batches
        self._id = batch.id

    def look(self) -> Look:
        """How far the server says it is."""
        batch = {b.id: b for b in self._batches.look()}.get(self._id)
        if batch is None:
            gone = f"is not in {self.folder} any more"
            return Look(progress=gone, problem=gone, hint=command("batch status", self.folder))
        progress = f"{batch.status or batch.state}, {_done(batch):,} of {batch.requests:,} done"
        if not batch.is_open:
            return self._ended(batch, progress)
        trouble = self._batches.trouble
        return Look(
            active=(moves(batch) and not self._batches.given_up) or at_work(self.folder),
            progress=progress + (f" ({trouble.what})" if trouble else ""),
            problem=trouble.what if trouble else _unfinished(batch),
            hint=trouble.hint if trouble else _WAIT if moves(batch) else _submit(self.folder),
        )

    def _ended(self, batch: Batch, progress: str) -> Look:
        # Not every server counts: of a whole batch only its failures are certain to be lacking.
        lost = batch.failed if batch.status == "completed" else batch.requests - batch.completed
        if not lost:
            return Look(done=True, progress=progress)
        cause = f": {batch.message}" if batch.message else ""
        return Look(
            done=True,
            progress=progress,
            problem=f"{batch.status or batch.state} without {lost:,} of {batch.requests:,} "
            f"answers{cause}",
            hint=f"the rest is asked by: {_submit(self.folder)}",
        )


class Group:
    """A group: until every request of its plan has an answer, or a failure of the last run.

    An older failure does not count while a run is at work: it will ask again.

    Args:
        batches: the group's.
    """

    def __init__(self, batches: Batches) -> None:
        self.name = batches.folder.name
        self.folder = batches.folder
        self._batches = batches
        self._database = batches.folder / DATABASE
        self._run: RunRow | None = None
        self._sequential = False
        self._round: Count | None = None
        self._keys: Outstanding | None = None

    def look(self) -> Look:
        """How far it is; what has ended at a provider is stored on the way."""
        run = self._last_run()
        busy = at_work(self.folder)  # before counting: who ended has stored everything
        if run is None:
            return self._unbegun(busy)
        batches = tuple(batch for batch in self._batches.look() if batch.is_open)
        moving = any(map(moves, batches))
        count = self._count(run)
        left = count.missing + (count.old if busy else 0)
        if not left and not moving:
            return Look(done=True, progress="complete", count=count)
        trouble = self._batches.trouble
        cause = f": {trouble.what}" if trouble else ""
        lacking = f"{hints.part(left, count.planned, 'request')} {hints.have(left)} no answer"
        if busy or (moving and not self._batches.given_up):
            progress = waiting_for(batches) + cause
            return Look(
                active=True, progress=progress, problem=lacking + cause, hint=_WAIT, count=count
            )
        hint = trouble.hint if trouble else self._next(run, batches)
        return Look(
            progress=_IDLE + cause, problem=f"{lacking}, and {_IDLE}{cause}", hint=hint, count=count
        )

    def _unbegun(self, busy: bool) -> Look:
        return Look(
            active=busy,
            progress="has not begun",
            problem="has not begun" + ("" if busy else f", and {_IDLE}"),
            hint=_WAIT if busy else f"begin it: pytest evals, or {self._begin()}",
        )

    def _begin(self) -> str:
        """The group's name is enough where it was prepared."""
        return command("run", self.folder) if self._database.is_file() else "kvbench run FILE.yaml"

    def _next(self, run: RunRow, batches: Sequence[Batch]) -> str:
        if odd := strange(batches):
            return f"{odd[0]}: {command('batch status', self.folder)}"
        if batches:
            return (
                f"{hints.count(len(batches), 'batch')} {hints.were(len(batches))} never "
                f"handed over: {_submit(self.folder)}"
            )
        if is_unconfirmed(self.folder):  # no command of a stranger's is recommended
            return f"it was restored from an archive: {command('trust', self.folder)}"
        return f"go on with what began it ({run.command}), or with {command('run', self.folder)}"

    def _last_run(self) -> RunRow | None:
        if not self._database.is_file():
            return None
        with Store(self._database, reads=True) as store:
            runs = store.runs()
        return runs[-1] if runs else None

    def _count(self, run: RunRow) -> Count:
        if self._run is None or run.run_id != self._run.run_id:
            self._plan(run)
        count = self._counted(run)
        if self._sequential and not count.missing and count != self._round:
            self._plan(run)  # a round is settled: is another wanted?
            count = self._round = self._counted(run)
        return count

    def _counted(self, run: RunRow) -> Count:
        assert self._keys is not None  # noqa: S101 -- planned before
        return self._keys.look(self._database, run.started_at)

    def _plan(self, run: RunRow) -> None:
        """Note what is planned; the plan itself, with its prompts, is not kept."""
        if self._keys is not None:
            self._keys.close()
        prepared = open_group(self.folder, self._batches.tasks)
        self._sequential = prepared.experiment.sequential
        self._keys = Outstanding(_wanted(prepared))
        self._run = run


def _wanted(prepared: Prepared) -> Iterator[str]:
    """The keys of the plan: of all of it, or of what sequential sampling wants by now."""
    if not prepared.experiment.sequential:
        yield from (request.key for _, request in prepared.each_request())
        return
    with Store(prepared.database) as store:
        most = prepared.requests()
        # As the run does after a round; unscored, its answers would look outstanding.
        score(store, [request.key for _, request in most], prepared.experiment)
        yield from (request.key for _, request in drawn_so_far(prepared, store, most))


def _done(batch: Batch) -> int:
    return batch.completed + batch.failed


def _unfinished(batch: Batch) -> str:
    if moves(batch):
        return f"{batch.status or batch.state}, {_done(batch):,} of {batch.requests:,} done"
    if batch.is_strange:
        return strange([batch])[0]
    return f"was never handed over, and {_IDLE}"


def _submit(folder: Path) -> str:
    return command("batch submit", folder)
