"""The stages with their prerequisites: prepare, run, score, analyse, report.

What the plugin and the command line both call. A stage reads what the one before it stored, so
that each can be repeated alone; `Prepared` is what all of them know about a group.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pytest_kvbench import declared, executors, plan, sanity
from pytest_kvbench.engines import Engine, EngineSource, engine_source, proof_of
from pytest_kvbench.errors import ControlError, GuardError, MissingPrerequisiteError, UsageError
from pytest_kvbench.execute import Pool, Tally, Work, first_cause
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.experiment.schema import ExecutorSettings, Experiment
from pytest_kvbench.files import is_unconfirmed, replace_json, sweep, writing
from pytest_kvbench.hints import command
from pytest_kvbench.records import Cell, Proof, Request, TaskManifest, Telemetry, canonical
from pytest_kvbench.score import score_answer
from pytest_kvbench.store import DATABASE, RunRow, Store
from pytest_kvbench.store.controls import SharedControls, control_key
from pytest_kvbench.store.upkeep import orphans
from pytest_kvbench.tasks import TaskFactory, get_task
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest, write_manifest
from pytest_kvbench.tasks.together import Say, say_nothing
from pytest_kvbench.tasks.tokenizers import Tokenizer, load_tokenizer
from pytest_kvbench.votes import votes

if TYPE_CHECKING:
    from pytest_kvbench.analyse import Analysis

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
_TOGETHER = 5_000  # answers whose texts and scores are held at once

Judge = Callable[[Experiment, Sequence[Mapping[str, Any]]], "Analysis"]

_SHORT_OF = 'the data has fewer examples than asked for in {bins} of "{task}"'


@dataclass(frozen=True)
class Site:
    """Where one run takes place, and what it may do.

    `reports` holds the groups; `controls` the shared controls (None: inside the group). All
    processes of a run share `run_id`; started servers end with `owner_pid`; about `share` of them
    ask at the same time, and where there are `others` at all, they count the engine's places
    together. `tasks` are those of a conftest. `say` shows a line in place of the one before while
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
    tasks: Mapping[str, TaskFactory] = field(default_factory=dict)
    say: Say = say_nothing


@dataclass(frozen=True)
class Prepared:
    """A group that can be run or judged: what is asked, of which engine.

    `executor` says from where, this time: no fact about the group, so it is stored nowhere.
    """

    experiment: Experiment
    folder: Path
    manifests: Mapping[str, TaskManifest]
    fingerprint: Mapping[str, str]
    replicate_offset: int
    extra_tasks: Mapping[str, TaskFactory] = field(default_factory=dict)
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)

    @property
    def database(self) -> Path:
        """The group's SQLite file."""
        return self.folder / DATABASE

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name, for their prompts."""
        return {
            name: get_task(name, options=self.experiment.options_of(name), extra=self.extra_tasks)
            for name in self.experiment.tasks
        }

    def requests(self, cells: Sequence[Cell] | None = None) -> list[tuple[Cell, Request]]:
        """The requests of some cells, by default of the whole plan; controls always included."""
        return self._all_requests if cells is None else self._requests(cells)

    @cached_property
    def _all_requests(self) -> list[tuple[Cell, Request]]:
        return self._requests(plan.cells(self.experiment))

    def _requests(self, cells: Sequence[Cell]) -> list[tuple[Cell, Request]]:
        target = plan.Target(self.fingerprint, self.replicate_offset)
        return list(plan.requests(self.experiment, cells, self.manifests, self.tasks, target))


def group_folder(experiment: Experiment, reports: Path) -> Path:
    """Where a group's files are."""
    return reports / experiment.group


def source_of(experiment: Experiment, site: Site) -> EngineSource:
    """The engine of an experiment, as this run would reach or start it."""
    return engine_source(
        experiment.engine,
        experiment.kv,
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


# -- prepare -------------------------------------------------------------------------------------


def prepare(declared: Declared, site: Site, judge_with: Judge | None = None) -> Prepared:
    """Make or read the manifests, check the guards, record the run. Starts no server.

    Where the experiment comes `after` another, that one is judged (see `analyse`), and what broke
    there is dropped here.

    The processes of one run, and other runs of the same group, take turns; the first does the
    work, the others read it.

    Raises:
        GuardError: the group was made by a different experiment.
        UsageError: the model, an extra or the data is not there.
        MissingPrerequisiteError: the stage before was not run.
    """
    experiment = declared.experiment
    if experiment.after is not None:
        before = open_group(site.reports / experiment.after, site.tasks)
        dropped = broken_arms(before, judge_with)
        experiment = experiment.model_copy(update={"dropped": {**experiment.dropped, **dropped}})
    executor = experiment.executor
    with _opened(experiment, site) as store:
        known = [run for run in store.runs() if run.run_id == site.run_id]
        if known:
            _guard_one_experiment(experiment, known[0])
            return replace(_prepared(store, known[0], site.tasks), executor=executor)
        _warn_of_origin(store.path.parent)
        store.check()
        fingerprint = source_of(experiment, site).fingerprint()
        _manifests(experiment, site, store)
        previous = store.runs()
        offset = previous[-1].replicate_offset if previous else 0
        if site.fresh:
            offset = store.next_replicate()
        run = RunRow(
            run_id=site.run_id,
            snapshot=experiment.snapshot(),
            fingerprint=fingerprint,
            replicate_offset=_first_of_vote(offset, experiment),
            command=site.command,
            started_at=now(),
        )
        store.start_run(run)
        controls = controls_root(site, store.path.parent)
        sweep(controls.parent, below=True)
        _warn_of_orphans(controls)
        return replace(_prepared(store, run, site.tasks), executor=executor)


def _first_of_vote(replicate: int, experiment: Experiment) -> int:
    """The first repetition from `replicate` on that begins a vote: see `votes`."""
    samples = experiment.sampling.self_consistency
    return -(-replicate // samples) * samples


def prepare_data(declared: Declared, site: Site) -> dict[str, TaskManifest]:
    """The manifests alone, made or read: needs no engine, and records no run.

    What was declared is kept, so that a run can be begun by the group's name.

    Raises:
        GuardError, UsageError: as `prepare`.
    """
    with _opened(declared.experiment, site) as store:
        manifests = _manifests(declared.experiment, site, store)
        store.save_prepared(declared.experiment.snapshot())
        return manifests


def controls_root(site: Site, folder: Path) -> Path:
    """Where a group's controls are shared; with nobody, while its answers are a stranger's."""
    own = folder / "shared_controls"
    return own if site.controls is None or is_unconfirmed(folder) else site.controls


def _warn_of_origin(folder: Path) -> None:
    if is_unconfirmed(folder):
        warnings.warn(
            f"group {folder.name}: was restored and is not confirmed: the examples and answers in "
            "it are used as they are, and its controls are shared with no other group. "
            f"{command('trust', folder)} confirms it",
            stacklevel=2,
        )


def _warn_of_orphans(root: Path) -> None:
    if found := orphans(root):
        warnings.warn(
            f"{root}: {len(found)} folders belong to no entry of the registry ({found[0]}, ...); "
            "what is sound in them is used where it fits. kvbench controls prune puts them right",
            stacklevel=2,
        )


@contextlib.contextmanager
def _opened(experiment: Experiment, site: Site) -> Iterator[Store]:
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
    """
    if not (folder / DATABASE).is_file():
        near = sorted(p.parent.name for p in folder.parent.glob(f"*/{DATABASE}"))
        raise MissingPrerequisiteError(
            f"{folder}: no group has been run there",
            f"groups there: {', '.join(near)}" if near else "make one: kvbench run FILE.yaml",
        )
    with Store(folder / DATABASE, reads=True) as store:
        runs = store.runs()
        if not runs:
            raise declared.never_run(folder, prepared=store.prepared() is not None)
        return _prepared(store, runs[-1], extra_tasks)


def _prepared(store: Store, run: RunRow, extra_tasks: Mapping[str, TaskFactory]) -> Prepared:
    folder = store.path.parent
    experiment = declared.stored_experiment(folder, run.snapshot)
    manifests = {}
    for task in experiment.tasks:
        stored = store.manifest(task)
        if stored is None:
            raise MissingPrerequisiteError(
                f"{folder}: no examples are stored for {task}",
                f"prepare the group again: {command('prepare', folder)}",
            )
        manifests[task] = stored[0]
    return Prepared(
        experiment, folder, manifests, run.fingerprint, run.replicate_offset, extra_tasks
    )


def _manifests(experiment: Experiment, site: Site, store: Store) -> dict[str, TaskManifest]:
    source = source_of(experiment, site)
    tokenizer = load_tokenizer(
        experiment.tokenizer,
        serving=source.tokenizer_folder(),
        server=source.tokenizer_server(),
        say=site.say,
    )
    _guard_tasks(experiment, store, force=site.force)
    manifests, selections, made = {}, {}, False
    for name in experiment.tasks:
        task = get_task(name, options=experiment.options_of(name), extra=site.tasks)
        stored = store.manifest(name)
        selection = _selection(experiment, task, stored[1] if stored else {})
        if stored is None or _differs(
            experiment.group, task, tokenizer, selection, stored, site.force
        ):
            manifest = build_task_manifest(
                task, bin_spec(experiment), tokenizer, experiment.sampling.seed
            )
            _warn_if_short(manifest, experiment)
            store.save_manifest(manifest, selection)
            made = True
            manifests[name] = manifest
        else:
            manifests[name] = stored[0]
        selections[name] = selection
    portable = store.path.parent / MANIFEST
    if made or not portable.exists():
        meta = {"group": experiment.group, "selection": selections}
        write_manifest(portable, manifests.values(), meta)
    return manifests


def bin_spec(experiment: Experiment) -> BinSpec:
    """The bins as tasks want them."""
    bins = experiment.bins
    return BinSpec(n=bins.n, per_bin=bins.per_bins, edges=bins.edges, range=bins.range, by=bins.by)


def _selection(experiment: Experiment, task: Task, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which examples are chosen, as plain data. Where data lie decides nothing."""
    options = {k: v for k, v in experiment.options_of(task.name).items() if k != "path"}
    return {
        "bins": json.loads(json.dumps(asdict(bin_spec(experiment)))),
        "seed": experiment.sampling.seed,
        "options": options,
        "data": _data_version(task, stored.get("data")),
    }


def _data_version(task: Task, stored: str | None) -> str:
    """What the task's data are now; of data that are gone, what was chosen from them stays."""
    try:
        return task.data_version
    except UsageError as gone:
        if stored is None:
            raise
        warnings.warn(
            f"{task.name}: the data cannot be compared with what was chosen from them: {gone.what}",
            stacklevel=2,
        )
        return stored


def _guard_tasks(experiment: Experiment, store: Store, *, force: bool) -> None:
    runs = store.runs()
    stored = tuple(runs[-1].snapshot["tasks"]) if runs else experiment.tasks
    if set(stored) != set(experiment.tasks) and not force:
        _refuse(experiment.group, "tasks", list(stored), list(experiment.tasks))


def _guard_one_experiment(experiment: Experiment, run: RunRow) -> None:
    """One run measures one experiment per group: its manifest and analysis are one."""
    ours, theirs = experiment.snapshot(), run.snapshot
    differ = [key for key in ours if ours[key] != theirs.get(key) and key != "dropped"]
    if differ:
        raise GuardError(
            f"group {experiment.group}: two experiments of this run differ in {', '.join(differ)}",
            "give each experiment a group of its own",
        )


def _differs(
    group: str,
    task: Task,
    tokenizer: Tokenizer,
    selection: Mapping[str, Any],
    stored: tuple[TaskManifest, Mapping[str, Any]],
    force: bool,
) -> bool:
    """Whether the stored selection is not the wanted one; refuses it unless forced."""
    manifest, made_with = stored
    pairs = {
        "tokenizer": (manifest.tokenizer, tokenizer.name),
        "prompt template": (manifest.template_version, task.template_version),
        **{key: (made_with.get(key, wanted), wanted) for key, wanted in selection.items()},
    }
    for what, (old, new) in pairs.items():
        if old != new:
            if not force:
                _refuse(group, f"{what} of {task.name}", old, new)
            return True
    return False


def _refuse(group: str, what: str, old: object, new: object) -> None:
    raise GuardError(
        f"group {group}: its stored {what} is {old}, the experiment says {new}",
        "give the experiment another group, or replace the selection: --kvbench-force",
    )


def _warn_if_short(manifest: TaskManifest, experiment: Experiment) -> None:
    wanted = experiment.bins.per_bins
    short = [
        f"bin {b.index} ({len(manifest.of_bin(b.index))} of {wanted[b.index]})"
        for b in manifest.bins
        if len(manifest.of_bin(b.index)) < wanted[b.index]
    ]
    if short:
        warnings.warn(_SHORT_OF.format(bins=", ".join(short), task=manifest.task), stacklevel=2)


# -- run -----------------------------------------------------------------------------------------


def make_pool(
    prepared: Prepared,
    site: Site,
    on_answers: Callable[[int], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> Pool:
    """A pool that answers this group's requests; no server starts before one is needed.

    `on_start` is called before the first request, if any is missing.
    """

    def start() -> Engine:
        on_start()
        if prepared.executor.name == "local":
            return source_of(prepared.experiment, site).start()
        from pytest_kvbench.executors.engine import parsl_engine

        return parsl_engine(
            prepared.executor,
            prepared.experiment.engine,
            prepared.experiment.kv,
            fingerprint=prepared.fingerprint,
            run_id=site.run_id,
            folder=prepared.folder,
        )

    return Pool(
        prepared.database,
        start,
        SharedControls(controls_root(site, prepared.folder)),
        on_answers=on_answers,
    )


def work_of(
    prepared: Prepared, group: plan.CellGroup, planned: Sequence[tuple[Cell, Request]]
) -> Work:
    """What a group is to ask, and when: first what tells whether its control is sane.

    Then the rest at once, or in rounds where sampling is sequential.
    """
    experiment = prepared.experiment
    draws = []
    if experiment.sequential:
        from pytest_kvbench.sampling import group_draws

        draws = list(group_draws(experiment, prepared.manifests, planned))
    keys = [request.key for _, request in planned]
    shares_prefill = experiment.engine.shares_prefill

    def wanted(store: Store) -> list[Request]:
        asked = planned
        if draws:
            score(store, keys)
            outcomes = _outcomes(prepared, store, planned)
            asked = [pair for draw in draws for pair in draw.wanted(draw.progress(outcomes))]
        first = sanity.asked_first(asked, shares_prefill=shares_prefill)
        known = store.settled([request.key for _, request in asked])
        if any(request.key not in known for _, request in first):
            return [request for _, request in first]
        if len(known) < len(asked) and (wrong := sickness(prepared, store, planned)):
            raise ControlError(
                f"{planned[0][0].control.item_id}: {wrong}",
                f"its treatments are not asked; see its prompts: kvbench inspect {group.task}",
            )
        return [request for _, request in asked]

    return Work(group.control_id, tuple(request for _, request in planned), wanted)


def sickness(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]], whole: bool = False
) -> str:
    """What is wrong with the control of one group, by the replies that are there; "" if nothing.

    Where not all are asked that will be (`whole`), a low mean of few is not held against it.
    """
    controls = [(cell, r) for cell, r in planned if cell.is_control and not r.aa]
    keys = [request.key for _, request in controls]
    score(store, keys)
    outcomes = store.outcomes(keys)
    task, index = controls[0][0].task, controls[0][0].bin
    manifest = prepared.manifests[task]
    examples = {e.example.example_id: e.example for e in manifest.of_bin(index)}
    return sanity.problem(
        sanity.replies(controls, outcomes, examples, manifest.metric),
        prepared.experiment.gate,
        shortest=index == 0,
        whole=whole or len(outcomes) == len(controls),
    )


def drawn(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> Sequence[tuple[Cell, Request]]:
    """What of a plan is wanted by now: all of it, or what sequential sampling came to."""
    if not prepared.experiment.sequential:
        return planned
    from pytest_kvbench import sampling

    outcomes = _outcomes(prepared, store, planned)
    return sampling.drawn(prepared.experiment, prepared.manifests, planned, outcomes)


def levels(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> dict[Cell, float]:
    """The two-sided level at which each treated cell of sequential groups stopped."""
    from pytest_kvbench.sampling import group_draws

    outcomes = _outcomes(prepared, store, planned)
    draws = group_draws(prepared.experiment, prepared.manifests, planned)
    return {cell: level for draw in draws for cell, level in draw.levels(outcomes).items()}


def _outcomes(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> Mapping[str, Mapping[str, Any]]:
    """By request key: what sampling goes by. Of a sample that is its vote's outcome."""
    if not prepared.experiment.votes:
        return store.outcomes([request.key for _, request in planned])
    return {key: vote for vote in voted(prepared, store, planned) for key in vote["keys"]}


def run(prepared: Prepared, site: Site, on_answers: Callable[[int], None]) -> Tally:
    """Answer everything the plan lacks, group after group, and wait for it.

    Raises:
        EngineError: the engine could not be started, or is gone; what was answered is stored.
    """
    pool = make_pool(prepared, site, on_answers)
    by_group: dict[plan.CellGroup, list[tuple[Cell, Request]]] = {}
    for cell, request in prepared.requests():
        by_group.setdefault(plan.CellGroup.of(cell), []).append((cell, request))
    try:
        futures = [
            pool.submit(work_of(prepared, group, planned)) for group, planned in by_group.items()
        ]
        try:
            tallies = [future.result() for future in futures]
        except Exception as error:
            raise first_cause(error) from None
    finally:
        pool.close()
    return sum(tallies, Tally())


# -- score ---------------------------------------------------------------------------------------


def score(store: Store, keys: Sequence[str]) -> int:
    """Score the answers among `keys` that have no score yet; how many there were."""
    count = 0
    for start in range(0, len(keys), _TOGETHER):
        rows = [
            (
                u.key,
                u.metric,
                score_answer(u.metric, u.text, u.finish_reason, u.answers, u.meta, u.context),
            )
            for u in store.unscored(keys[start : start + _TOGETHER])
        ]
        if rows:
            store.save_scores(rows)
        count += len(rows)
    return count


# -- analyse -------------------------------------------------------------------------------------


def observations(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> list[dict[str, Any]]:
    """One row per planned request that has an answer or a failure, as `analyse` wants them.

    A treatment is proven only against a control that saw as many tokens: where `planned` has the
    control's request too, another count leaves it unverified.
    """
    clusters = {
        entry.example.example_id: entry.example.cluster
        for manifest in prepared.manifests.values()
        for entry in manifest.entries
    }
    controls = [(cell, r) for cell, r in planned if cell.is_control and not r.aa]
    seen = {
        _asked(cell, request): outcome["prompt_tokens"]
        for cell, request, outcome in _with_outcomes(store, controls)
    }
    return [
        {
            "task": cell.task,
            "bin": cell.bin,
            "variant": cell.variant,
            "policy": cell.policy,
            "budget": cell.budget,
            "replicate": request.replicate,
            "aa": request.aa,
            "example_id": request.example_id,
            "cluster": clusters[request.example_id],
            "proof": _proof(request, outcome, seen.get(_asked(cell, request))),
            **outcome,
        }
        for cell, request, outcome in _with_outcomes(store, planned)
    ]


def _with_outcomes(
    store: Store, planned: Sequence[tuple[Cell, Request]]
) -> Iterator[tuple[Cell, Request, Mapping[str, Any]]]:
    """The planned requests that have an outcome, each with it."""
    for start in range(0, len(planned), _TOGETHER):
        some = planned[start : start + _TOGETHER]
        outcomes = store.outcomes([request.key for _, request in some])
        for cell, request in some:
            if (outcome := outcomes.get(request.key)) is not None:
                yield cell, request, outcome


def voted(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> Sequence[Mapping[str, Any]]:
    """The observations that are judged: where samples vote, one per vote (see `votes`)."""
    rows = observations(prepared, store, planned)
    return votes(rows, prepared.experiment, prepared.manifests)


def _asked(cell: Cell, request: Request) -> tuple[object, ...]:
    """What a control and its treatments have in common."""
    return cell.task, cell.variant, request.example_id, request.replicate


def _proof(request: Request, outcome: Mapping[str, Any], control_tokens: int | None) -> Proof:
    proof, tokens = proof_of(request.arm, _achieved(outcome)), outcome["prompt_tokens"]
    differs = None not in (tokens, control_tokens) and tokens != control_tokens
    return "unverified" if differs and proof == "proven" else proof


def _achieved(outcome: Mapping[str, Any]) -> Telemetry | None:
    if outcome["text"] is None:
        return None
    return Telemetry(
        latency_s=outcome["latency_s"],
        achieved=outcome["achieved"],
        prompt_tokens=outcome["prompt_tokens"],
    )


def missing_cells(
    planned: Sequence[tuple[Cell, Request]], seen: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The cells of the plan that lack an outcome for some request, and how many."""
    have = {row["key"] for row in seen}
    lacking: dict[Cell, int] = {}
    total: dict[Cell, int] = {}
    for cell, request in planned:
        total[cell] = total.get(cell, 0) + 1
        lacking[cell] = lacking.get(cell, 0) + (request.key not in have)
    return [
        {
            "task": cell.task,
            "bin": cell.bin,
            "variant": cell.variant,
            "policy": cell.policy,
            "budget": cell.budget,
            "reason": "not run" if n == total[cell] else f"{n} of {total[cell]} answers missing",
        }
        for cell, n in lacking.items()
        if n
    ]


def analyse(prepared: Prepared, judge_with: Judge | None = None) -> dict[str, Any]:
    """Judge everything stored for the plan; store it, write `summary.json`, return the summary.

    Where nothing changed that it depends on, the summary that is there is returned.

    Args:
        prepared: the group.
        judge_with: judges in place of `judge`, which loads pandas.

    Raises:
        MissingPrerequisiteError: no answer, or an answer without a score.
    """
    from pytest_kvbench.report.summary import build_summary, failure_messages

    group = prepared.experiment.group
    most = prepared.requests()
    with Store(prepared.database) as store:
        planned = drawn(prepared, store, most)
        rows = observations(prepared, store, planned)
        if not rows:
            raise MissingPrerequisiteError(
                f"group {group}: nothing has been answered yet",
                f"run it: {command('run', prepared.folder)}",
            )
        unscored = sum(row["text"] is not None and row["score"] is None for row in rows)
        if unscored:
            raise MissingPrerequisiteError(
                f"group {group}: {unscored} answers have no score",
                f"score them: {command('score', prepared.folder)}",
            )
        inputs = _inputs(prepared, planned, rows)
        known = _summary_of(prepared)
        if known is not None and known["provenance"].get("inputs") == inputs:
            return known
        judged = votes(rows, prepared.experiment, prepared.manifests)
        if not judged:
            raise MissingPrerequisiteError(
                f"group {group}: no vote has all its samples yet",
                f"run it: {command('run', prepared.folder)}",
            )
        analysis = (judge_with or judge)(prepared.experiment, judged)
        store.save_analysis(analysis.bin_stats, analysis.cells, analysis.transitions)
        runs = store.runs()
    summary = build_summary(
        prepared.experiment.snapshot(),
        prepared.manifests,
        asdict(analysis),
        judged,
        missing_cells(planned, rows),
        runs[-1],
    )
    summary["integrity"]["messages"] = failure_messages(rows)
    summary["provenance"]["inputs"] = inputs
    summary["provenance"]["controls"] = _controls_used(planned, rows)
    if prepared.experiment.sequential:
        summary["sampling"] = {"wanted": len(planned), "most": len(most)}
        summary["integrity"]["notes"].append(_spared(len(planned), len(most)))
    replace_json(prepared.folder / SUMMARY, summary)
    return summary


def _controls_used(
    planned: Sequence[tuple[Cell, Request]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of every cell group: the shared control of its arms, and whose answers it is made of."""
    origins = {row["key"]: row["origin"] for row in rows}
    used: dict[plan.CellGroup, dict[str, Any]] = {}
    for cell, request in planned:
        if not cell.is_control or request.aa:
            continue
        group = plan.CellGroup.of(cell)
        name = f"{control_key(request.arm)}/{group.control_id}"
        counts = used.setdefault(group, {**asdict(group), "control": name} | _NONE_YET)
        origin = origins.get(request.key)
        counts["produced"] += origin == "engine"
        counts["reused"] += origin == "shared-control"
    return list(used.values())


_NONE_YET = {"produced": 0, "reused": 0}


def _spared(wanted: int, most: int) -> str:
    return (
        f"sequential sampling: {wanted} of at most {most} requests ({wanted / most:.0%}) were "
        "wanted; intervals are betting confidence sequences, valid however often one looks."
    )


def _inputs(
    prepared: Prepared,
    planned: Sequence[tuple[Cell, Request]],
    rows: Sequence[Mapping[str, Any]],
) -> str:
    """Digest of all that an analysis depends on; texts and telemetry come with an answer's key."""
    told = ("key", "score", "em", "label", "failure", "message", "proof", "cluster", "parts")
    version = importlib.metadata.version("pytest-kvbench")
    whole = hashlib.sha256(canonical([version, prepared.experiment.snapshot()]))
    for _, request in planned:
        whole.update(request.key.encode())
    for row in rows:
        whole.update(canonical([row[name] for name in told]))
    return whole.hexdigest()[:16]


def _summary_of(prepared: Prepared) -> dict[str, Any] | None:
    """What `summary.json` holds; None where there is none that can be read."""
    try:
        summary = json.loads((prepared.folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(summary, dict) and isinstance(summary.get("provenance"), dict)
    return summary if whole else None


def broken_arms(prepared: Prepared, judge_with: Judge | None = None) -> dict[str, tuple[str, ...]]:
    """By task: the arms that broke over all bins, in every variant.

    Raises:
        MissingPrerequisiteError: nothing was answered there.
    """
    with Store(prepared.database) as store:
        score(store, [request.key for _, request in prepared.requests()])
    cells = [cell for cell in analyse(prepared, judge_with)["cells"] if cell["verdict"]]
    pooled = [cell for cell in cells if cell["bin"] == "all"] or cells
    verdicts: dict[tuple[str, str], set[str]] = {}
    for cell in pooled:
        arm = (cell["task"], plan.arm_name(cell["policy"], cell["budget"]))
        verdicts.setdefault(arm, set()).add(cell["verdict_holm"])
    broken = [arm for arm, words in verdicts.items() if words == {"breaks"}]
    return {
        task: tuple(name for of, name in broken if of == task)
        for task in prepared.experiment.tasks
        if any(of == task for of, _ in broken)
    }


def judge(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Analysis:
    """The statistics of observations under an experiment's rules."""
    import pandas as pd

    from pytest_kvbench.analyse import Rules
    from pytest_kvbench.analyse import analyse as analyse_table

    gate = experiment.gate
    rules = Rules(
        margin=gate.margin,
        alpha=gate.alpha,
        max_lost=gate.max_lost,
        drop_threshold=gate.drop_threshold,
        correction=gate.correction,
        planned_cells=max(1, plan.treated_cells(experiment)),  # controls alone: nothing to share
        seed=experiment.sampling.seed,
        anytime=experiment.sequential,
    )
    return analyse_table(pd.DataFrame(list(rows)), rules)


# -- report --------------------------------------------------------------------------------------


def report(prepared: Prepared, folder: Path | None = None) -> Path:
    """Write report and plots from the group's `summary.json`; the report's path.

    Raises:
        MissingPrerequisiteError: the group has not been analysed.
    """
    from pytest_kvbench.report import write_report

    summary = _summary_of(prepared)
    if summary is None:
        group = prepared.experiment.group
        raise MissingPrerequisiteError(
            f"group {group}: there is no {SUMMARY}",
            f"make it: {command('analyse', prepared.folder)}",
        )
    return write_report(folder or prepared.folder, summary)


def judged_on(prepared: Prepared) -> str:
    """Digest of what the present `summary.json` was made from; empty where there is none."""
    summary = _summary_of(prepared)
    return str(summary["provenance"].get("inputs", "")) if summary else ""


def is_reported(prepared: Prepared, folder: Path | None = None) -> bool:
    """Whether the report that is there is that of the present `summary.json`."""
    path, inputs = (folder or prepared.folder) / "report.md", judged_on(prepared)
    return bool(inputs) and path.is_file() and inputs in path.read_text(encoding="utf-8")


def now() -> str:
    """The time in UTC, to the millisecond, as stored."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
