"""Where a run takes place, and a group as it is opened or left by its last run."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock

from pytest_kvbench import executors
from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.engines import EngineSource, engine_source
from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.experiment.executor import ExecutorSettings
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.files import CONTROLS, is_unconfirmed, sweep, writing
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline import find, plan
from pytest_kvbench.pipeline.planned import Plan
from pytest_kvbench.records import SCORE, Arm, Cell, Request
from pytest_kvbench.selection import ManifestEntry, TaskManifest
from pytest_kvbench.store.places import group_names, is_group
from pytest_kvbench.store.store import DATABASE, RunRow, Store
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.manifest import check_prompts
from pytest_kvbench.tasks.registry import TaskFactory, get_task
from pytest_kvbench.tasks.together import Say, say_nothing
from pytest_kvbench.tasks.unkept import unkept


@dataclass(frozen=True)
class Site:
    """Where one run takes place, and what it may do.

    `reports` holds the groups; `controls` the shared controls (None: inside the group). All
    processes of a run share `run_id`; started servers end with `owner_pid`; about `share` of them
    ask at the same time, and where there are `others` at all, they count the engine's places
    together. `compares`: with a baseline. After `ends_at`, in seconds since the epoch, nothing is
    asked. `tasks` are those of a conftest. `say` shows a line in place of the one before while
    something takes long; an empty one takes it away.
    """

    reports: Path
    run_id: str
    owner_pid: int
    command: str
    controls: Path | None = None
    share: int = 1
    others: bool = False
    fresh: bool = False
    force: bool = False
    compares: bool = False
    ends_at: float = math.inf
    tasks: Mapping[str, TaskFactory] = field(default_factory=dict)
    say: Say = say_nothing


@dataclass(frozen=True)
class Prepared:
    """A group that can be run or judged: what is asked, of which engine.

    `executor` says from where, this time: no fact about the group, so it is stored nowhere.
    `asks_again`: answers of other runs and groups are not taken over.
    """

    experiment: Experiment
    folder: Path
    manifests: Mapping[str, TaskManifest]
    fingerprint: Mapping[str, str]
    replicate_offset: int
    extra_tasks: Mapping[str, TaskFactory] = field(default_factory=dict)
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    asks_again: bool = False
    made: dict[CellGroup, Plan] = field(default_factory=dict, repr=False, compare=False)
    """The requests of groups, as far as they were made."""

    @property
    def database(self) -> Path:
        """The group's SQLite file."""
        return self.folder / DATABASE

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name, for their prompts."""
        return {
            name: task_of(self.experiment, name, self.extra_tasks) for name in self.experiment.tasks
        }

    def requests(self, cells: Sequence[Cell] | None = None) -> Plan:
        """The requests of some cells, by default of the whole plan; controls always included.

        Those of a group are made once, with all its cells, and kept, without their prompts.
        """
        some = plan.groups(self.cells if cells is None else cells)
        return Plan.of([self._of(group, members) for group, members in some.items()])

    def each_request(self, cells: Sequence[Cell] | None = None) -> Iterator[tuple[Cell, Request]]:
        """As `requests`, one at a time: none is kept that was not before."""
        for group, members in plan.groups(self.cells if cells is None else cells).items():
            yield from self._of(group, members) if group in self.made else self._make(members)

    def _of(self, group: CellGroup, some: Sequence[Cell]) -> Plan:
        if group not in self.made:
            self.made[group] = Plan(self._make(self._groups.get(group, some)))
        return self.made[group].among(plan.asked(self.experiment, some))

    def _make(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Request]]:
        target = plan.Target(self.fingerprint, self.replicate_offset)
        return plan.requests(self.experiment, cells, self.manifests, {}, target)

    def sent(self, request: Request) -> Request:
        """A request of the plan with its prompt, which is made now and kept nowhere else.

        Raises:
            GuardError: its task makes another prompt than when its example was chosen.
        """
        arm, entry = request.arm, self._entries[request.task, request.example_id]
        task, measure = self.tasks[request.task], arm.method or SCORE
        prompt = plan.prompt_of(self.experiment, task, entry, arm.variant, arm.policy, measure)
        return request.sent(prompt)

    def check_prompts(self) -> None:
        """Refuse what is stored where a task now makes other prompts.

        Raises:
            GuardError: see `pinned_prompt`.
        """
        for name, manifest in self.manifests.items():
            check_prompts(self.tasks[name], manifest)

    @cached_property
    def _entries(self) -> dict[tuple[str, str], ManifestEntry]:
        return {
            (task, entry.example.example_id): entry
            for task, manifest in self.manifests.items()
            for entry in manifest.entries
        }

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The plan's, those of the controls included where they are items."""
        return plan.cells(self.experiment)

    def is_beside(self, cell: Cell) -> bool:
        """Whether a cell is asked beside the plan: that of the sensitivity arm."""
        return not cell.is_control and cell not in self._planned

    @cached_property
    def _planned(self) -> frozenset[Cell]:
        return frozenset(self.cells)

    @cached_property
    def _groups(self) -> dict[CellGroup, tuple[Cell, ...]]:
        return plan.groups(self.cells)

    def arms(self) -> Iterator[tuple[Arm, str | None]]:
        """Every arm of the plan, and the addresses declared for it."""
        target = plan.Target(self.fingerprint, self.replicate_offset)
        return plan.addressed_arms(self.experiment, self.manifests, target)


def task_of(experiment: Experiment, name: str, extra: Mapping[str, TaskFactory]) -> Task:
    """A task of an experiment, as it is stored.

    Raises:
        UsageError: an unknown name or option, or its texts cannot be left out.
    """
    task = get_task(name, options=experiment.options_of(name), extra=extra)
    return unkept(task) if experiment.keeps_no_texts else task


def group_folder(experiment: Experiment, reports: Path) -> Path:
    """Where a group's files are."""
    return reports / experiment.group


def source_of(experiment: Experiment, site: Site) -> EngineSource:
    """The engine of an experiment, as this run would reach or start it."""
    return engine_source(
        experiment.engine,
        experiment.served_kv,
        run_id=site.run_id,
        owner_pid=site.owner_pid,
        log=group_folder(experiment, site.reports) / "engine.log",
        share=site.share,
        meet=site.others,
    )


def check_engine(experiment: Experiment, site: Site, *, workers: bool = False) -> None:
    """Refuse an engine or an executor that can never run.

    `workers`: this is a worker of pytest-xdist.

    Raises:
        UsageError: naming the command that mends it.
    """
    source_of(experiment, site).check()
    executors.check(experiment.executor, experiment.engine, workers=workers)


def controls_root(experiment: Experiment, site: Site, folder: Path) -> Path:
    """The folder in which a group's controls are shared.

    It is the group's alone where the run shares none, the group was restored and not confirmed, or
    keeps no texts: other groups score what they take over.
    """
    alone = experiment.keeps_no_texts or is_unconfirmed(folder)
    return folder / CONTROLS if alone or site.controls is None else site.controls


@contextlib.contextmanager
def opened_store(experiment: Experiment, site: Site) -> Iterator[Store]:
    """The group's store, for one process at a time."""
    folder = group_folder(experiment, site.reports)
    lock = folder / ".prepare.lock"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    with FileLock(lock), Store(folder / DATABASE) as store:
        sweep(folder, below=True)
        yield store


def open_group(
    folder: Path, extra_tasks: Mapping[str, TaskFactory] = MappingProxyType({})
) -> Prepared:
    """The group as its last run left it; needs no engine and no data.

    Raises:
        MissingPrerequisiteError: nothing was prepared there.
        StoreError: its database is damaged.
    """
    if not is_group(folder):
        near = group_names(folder.parent)
        raise MissingPrerequisiteError(
            f"{folder}: no group has been run there",
            f"groups there: {', '.join(near)}" if near else "make one: kvbench run FILE.yaml",
        )
    with Store(folder / DATABASE, reads=True) as store:
        store.check()
        runs = store.runs()
        if not runs:
            raise find.never_run(folder, prepared=store.prepared() is not None)
        return prepared_from(store, runs[-1], extra_tasks)


def prepared_from(
    store: Store,
    run: RunRow,
    extra_tasks: Mapping[str, TaskFactory],
    read: Mapping[str, TaskManifest] = MappingProxyType({}),
) -> Prepared:
    """The group as a run declared it, with the examples that are stored.

    Args:
        store: the group's.
        run: the run.
        extra_tasks: tasks of a conftest, by name.
        read: manifests that were read from the store or written to it already.

    Raises:
        MissingPrerequisiteError: a task has none.
        GuardError: it came from elsewhere, and names classes that nobody has confirmed.
    """
    folder = store.path.parent
    experiment = find.stored_experiment(folder, run.snapshot)
    manifests = {}
    for task in experiment.tasks:
        stored = (read[task],) if task in read else store.manifest(task)
        if stored is None:
            raise MissingPrerequisiteError(
                f"{folder}: no examples are stored for {task}",
                f"prepare the group again: {command('prepare', folder)}",
            )
        manifests[task] = stored[0]
    return Prepared(
        experiment,
        folder,
        manifests,
        run.fingerprint,
        run.replicate_offset,
        extra_tasks,
        asks_again=run.asks_again,
    )


def now() -> str:
    """The time in UTC, to the millisecond, as stored."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
