"""The manifests of a group, made or read; its guards; the record of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

from pytest_kvbench.errors import GuardError, UsageError
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.files import is_unconfirmed, sweep
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline import asked_again, certify
from pytest_kvbench.pipeline.group import (
    Prepared,
    Site,
    controls_root,
    now,
    opened_store,
    prepared_from,
    source_of,
    task_of,
)
from pytest_kvbench.score.metric import check_installed
from pytest_kvbench.selection import Selection, TaskManifest
from pytest_kvbench.store.store import RunRow, Store
from pytest_kvbench.store.upkeep import orphans
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import About, build_task_manifest, check_prompts, write_manifest
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from pytest_kvbench.tasks.tokenizers import Tokenizer

MANIFEST = "manifest.json"

Dropped = Mapping[str, tuple[str, ...]]
"""By task: the names of arms that are not asked (`snapkv-0.20`)."""

_SHORT_OF = 'the data has fewer examples than asked for in {bins} of "{task}"'


def prepare(declared: Declared, site: Site, dropped: Dropped = MappingProxyType({})) -> Prepared:
    """Make or read the manifests, check the guards, record the run. Starts no server.

    The processes of one run, and other runs of the same group, take turns; the first does the
    work, the others read it.

    Args:
        declared: the experiment.
        site: where the run takes place, and which it is.
        dropped: what broke in the experiment before, as `before.broken_before` finds it.

    Raises:
        GuardError: the group was made by a different experiment.
        UsageError: the model, an extra or the data is not there.
    """
    experiment = declared.experiment
    if dropped:
        experiment = experiment.model_copy(update={"dropped": {**experiment.dropped, **dropped}})
    executor = experiment.executor
    with opened_store(experiment, site) as store:
        earlier = [run for run in store.runs() if run.run_id == site.run_id]
        if earlier:
            _guard_one_experiment(experiment, earlier[0])
            return replace(prepared_from(store, earlier[0], site.tasks), executor=executor)
        _warn_of_origin(store.path.parent)
        store.check()
        fingerprint = source_of(experiment, site).fingerprint()
        manifests = _manifests(experiment, site, store)
        certify.check_data(experiment, manifests)
        again = asked_again.is_due(experiment, site, fingerprint)
        anew = site.fresh or (again and not asked_again.goes_on(store, experiment))
        previous = store.runs()
        offset = previous[-1].replicate_offset if previous else 0
        if anew:
            offset = store.next_replicate()
        run = RunRow(
            run_id=site.run_id,
            snapshot=experiment.snapshot(),
            fingerprint=fingerprint,
            replicate_offset=_first_of_vote(offset, experiment),
            command=site.command,
            started_at=now(),
            asks_again=again,
        )
        store.start_run(run)
        controls = controls_root(experiment, site, store.path.parent)
        sweep(controls.parent, below=True)
        _warn_of_orphans(controls)
        prepared = replace(prepared_from(store, run, site.tasks, manifests), executor=executor)
        store.save_arms(prepared.arms())
        return prepared


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
    with opened_store(declared.experiment, site) as store:
        manifests = _manifests(declared.experiment, site, store)
        store.save_prepared(declared.experiment.snapshot())
        return manifests


def tokenizer_of(experiment: Experiment, site: Site) -> Tokenizer:
    """The tokenizer that an experiment counts with, of its server where it says `auto`."""
    if experiment.tokenizer != "auto":
        return load_tokenizer(experiment.tokenizer)
    source = source_of(experiment, site)
    return load_tokenizer(
        experiment.tokenizer,
        serving=source.tokenizer_folder(),
        server=source.tokenizer_server(),
        say=site.say,
    )


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


def _manifests(experiment: Experiment, site: Site, store: Store) -> dict[str, TaskManifest]:
    tokenizer = tokenizer_of(experiment, site)
    _guard_tasks(experiment, store, force=site.force)
    manifests, selections, made = {}, {}, False
    for name in experiment.tasks:
        task = task_of(experiment, name, site.tasks)
        check_installed(task.metric)
        stored = store.manifest(name)
        selection = _selection(experiment, task, stored[1] if stored else None)
        if stored is None or _differs(
            experiment.group, task, tokenizer, selection, stored, site.force
        ):
            manifest = build_task_manifest(
                task, bin_spec(experiment), tokenizer, experiment.sampling.seed
            )
            _warn_if_short(manifest, experiment)
            store.save_manifest(manifest, selection)
            made = True
            manifests[name] = _read_back(store, manifest)
        else:
            manifests[name] = stored[0]
        _refuse_ungraded(experiment, manifests[name])
        selections[name] = selection
    portable = store.path.parent / MANIFEST
    if made or not portable.exists():
        meta: About = {"group": experiment.group, "selection": selections}
        write_manifest(portable, manifests.values(), meta)
    return manifests


def _read_back(store: Store, manifest: TaskManifest) -> TaskManifest:
    """The manifest as it is stored: from there its contexts take no memory."""
    stored = store.manifest(manifest.task)
    return manifest if stored is None else stored[0]


def _refuse_ungraded(experiment: Experiment, manifest: TaskManifest) -> None:
    lacking = [entry for entry in manifest.entries if not entry.example.answers]
    if lacking and experiment.scores:
        raise UsageError(
            f"{manifest.task}: {len(lacking)} of {len(manifest.entries)} examples have no answer "
            "that a reply could be scored by",
            "measure: divergence needs none",
        )


def bin_spec(experiment: Experiment) -> BinSpec:
    """An experiment's bins in the form in which tasks take them."""
    bins = experiment.bins
    return BinSpec(n=bins.n, per_bin=bins.per_bins, edges=bins.edges, range=bins.range, by=bins.by)


def _selection(experiment: Experiment, task: Task, stored: Selection | None) -> Selection:
    """What decides which examples are chosen, as plain data. Where data lie decides nothing."""
    options = {k: v for k, v in experiment.options_of(task.name).items() if k != "path"}
    return {
        "bins": json.loads(json.dumps(asdict(bin_spec(experiment)))),
        "seed": experiment.sampling.seed,
        "options": options,
        "data": _data_version(task, stored.get("data") if stored else None),
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
    _guard_texts(experiment, runs)
    stored = Snapshot(runs[-1].snapshot).tasks if runs else experiment.tasks
    if set(stored) != set(experiment.tasks) and not force:
        refuse(experiment.group, "tasks", list(stored), list(experiment.tasks))


def _guard_texts(experiment: Experiment, runs: Sequence[RunRow]) -> None:
    """What was stored stays: no run of a group that kept texts can promise that none is there."""
    wanted = experiment.store.texts
    had = {Snapshot(run.snapshot).get("store.texts") or "keep" for run in runs}
    if other := sorted(had - {wanted}):
        raise GuardError(
            f"group {experiment.group}: store.texts is {wanted}, and was {other[0]} before",
            "give the experiment another group",
        )


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
    selection: Selection,
    stored: tuple[TaskManifest, Selection],
    force: bool,
) -> bool:
    """Whether the stored selection is not the wanted one; refuses it unless forced."""
    manifest, made_with = stored
    pairs = {
        "tokenizer": (manifest.tokenizer, tokenizer.name),
        "prompt template": (manifest.template_version, task.template_version),
        **{key: (made_with.get(key, wanted), wanted) for key, wanted in selection.items()},
    }
    for name, (old, new) in pairs.items():
        if old != new:
            if not force:
                refuse(group, f"{name} of {task.name}", old, new)
            return True
    try:
        check_prompts(task, manifest)
    except GuardError:
        if not force:
            raise
        return True
    return False


def refuse(group: str, name: str, old: object, new: object) -> None:
    """Raise a GuardError that names both values."""
    raise GuardError(
        f"group {group}: its stored {name} is {old}, the experiment says {new}",
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
