"""Experiment + manifests -> ordered cells, requests and what they cost. Pure: asks nobody."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.engines import arms, fingerprint
from pytest_kvbench.engines.kinds import arms_per_request, check_name, kind_of
from pytest_kvbench.engines.misfits import misfits
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.experiment.schema import Experiment, Variant
from pytest_kvbench.pipeline import assay, measures
from pytest_kvbench.records import (
    FULL_CACHE,
    SCORE,
    WITHHELD,
    Arm,
    Cell,
    Prompt,
    Request,
    digest,
    format_budget,
    to_json,
)
from pytest_kvbench.selection import ManifestEntry, TaskManifest
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.manifest import pinned_prompt
from pytest_kvbench.tasks.registry import TaskFactory, check_task_name


@dataclass(frozen=True)
class Target:
    """The servers a plan is made for, as far as a request's identity needs them.

    `fingerprint` is that of a run: see `engines.fingerprint`.
    """

    fingerprint: Mapping[str, str]
    replicate_offset: int = 0

    def of(self, experiment: Experiment, cell: Cell) -> str:
        """The fingerprint of the server that a cell's arm is asked of, as one hash."""
        server = arms.server_name(experiment.engine, experiment.served_kv, cell.policy, cell.budget)
        return digest(fingerprint.of_server(self.fingerprint, server))


@dataclass(frozen=True)
class Cost:
    """What a group of cells would spend; `prefill_tokens` where arms share their prefill."""

    group: CellGroup
    cells: int
    requests: int
    prompt_tokens: int
    prefill_tokens: int


def check(declared: Declared, extra: Mapping[str, TaskFactory] = MappingProxyType({})) -> None:
    """Refuse names and parameters that no task, policy or engine has. Needs no data, no model.

    Args:
        declared: what to check.
        extra: tasks of a conftest, by name.

    Raises:
        ExperimentError: naming the file, the key, the value and what is valid.
    """
    experiment = declared.experiment
    try:
        check_name(experiment.engine.name)
    except UsageError as unknown:
        declared.refuse("engine.name", unknown.what, unknown.hint)
    for position, name in enumerate(experiment.tasks):
        with_key = f"tasks.{position}"
        try:
            check_task_name(name, options=experiment.options_of(name), extra=extra)
        except UsageError as unknown:
            declared.refuse(with_key, unknown.what, unknown.hint)
    for position, policy in enumerate(experiment.kv.policies):
        try:
            arms.check_policy(experiment.engine, experiment.kv, policy)
        except UsageError as unknown:
            declared.refuse(f"kv.policies.{position}", unknown.what, unknown.hint)
    try:
        assay.check(experiment)
    except UsageError as unknown:
        declared.refuse("sensitivity", unknown.what, unknown.hint)
    for policy in experiment.kv.params:
        if policy not in experiment.served_kv.policies:
            declared.refuse(
                f"kv.params.{policy}",
                f"{policy!r} is not among this experiment's policies",
                f"valid: {', '.join(experiment.kv.policies)}",
            )
    _check_engine(declared)
    measures.check(declared)
    _check_ids(declared)


def _check_ids(declared: Declared) -> None:
    """Refuse cells that are called alike: nobody could tell one's item or row from the other's."""
    first: dict[str, Cell] = {}
    for cell in cells(declared.experiment):
        other = first.setdefault(cell.item_id, cell)
        if other != cell:
            mine, theirs = to_json(cell), to_json(other)
            key = next(key for key in mine if mine[key] != theirs[key])
            declared.refuse(
                _KEY_OF.get(key, key),
                f"{theirs[key]!r} and {mine[key]!r} make cells of one name, {cell.item_id}",
                "take one away, or give it another name or value",
            )


_KEY_OF = {"task": "tasks", "policy": "kv.policies", "budget": "kv.budgets", "variant": "variants"}


def _check_engine(declared: Declared) -> None:
    engine, kv = declared.experiment.engine, declared.experiment.served_kv
    try:
        arms.check_servers(engine, kv)
    except UsageError as missing:
        declared.refuse("engine.endpoints", missing.what, missing.hint)
    try:
        arms.check_dtype(engine)
    except UsageError as unknown:
        declared.refuse("engine.dtype", unknown.what, unknown.hint)
    for key, problem, valid in misfits(engine, declared.experiment.sampling.max_tokens):
        declared.refuse(f"engine.{key}", problem, valid)
    if not kind_of(engine).marks_question and not kv.question_aware:
        declared.refuse(
            "kv.question_aware",
            f"a server of engine.name: {engine.name} is not told where a question begins",
            "valid: true; false needs engine.name: local",
        )


def cells(experiment: Experiment) -> tuple[Cell, ...]:
    """All cells in order: by task, bin, variant, measure; the control first, then budgets falling.

    A listed budget of 1.0 is the control. A ladder without it has no control item, though the
    control runs all the same. A task that lost all its arms in an earlier stage has no cell.
    """
    kv = experiment.kv
    treated = [
        (policy, budget)
        for policy in kv.policies
        if policy != FULL_CACHE
        for budget in arms.budgets(experiment.engine, kv, policy)
    ]
    control = [(FULL_CACHE, 1.0)] if 1.0 in kv.budgets else []

    def asked(task: str) -> list[tuple[str, float]]:
        dropped = experiment.dropped.get(task, ())
        left = [arm for arm in treated if arm_name(*arm) not in dropped]
        return [*control, *left] if left or not treated else []

    return tuple(
        Cell(task, index, policy, budget, variant, measure)
        for task in experiment.tasks
        for index in range(experiment.bins.n)
        for variant in experiment.ways
        for measure in measures.of(experiment)
        for policy, budget in asked(task)
    )


def arm_name(policy: str, budget: float) -> str:
    """The name of an arm in an item's id and in `dropped`: `snapkv-0.20`."""
    return f"{policy}-{format_budget(budget)}"


def groups(some: Iterable[Cell]) -> dict[CellGroup, tuple[Cell, ...]]:
    """Cells by the group they run in, both in order of first appearance."""
    grouped: dict[CellGroup, list[Cell]] = {}
    for cell in some:
        grouped.setdefault(CellGroup.of(cell), []).append(cell)
    return {group: tuple(members) for group, members in grouped.items()}


def asked(experiment: Experiment, members: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells of one group that are asked with some of it: the control and the bad arm too."""
    treated = next((cell for cell in members if not cell.is_control), None)
    bad = treated and assay.cell_beside(experiment, treated)
    return tuple(dict.fromkeys([members[0].control, *members, *([bad] if bad else [])]))


def treated_cells(experiment: Experiment, measure: str | None = None) -> int:
    """m: how many cells are judged by the whole plan, whatever `-k` selects; of one measure."""
    every = (cell for cell in cells(experiment) if not cell.is_control)
    return sum(measure in (None, cell.measure) for cell in every)


def arm_of(experiment: Experiment, cell: Cell, template_version: str, fingerprint: str) -> Arm:
    """The arm that measures a cell, with everything that may change its answers."""
    return Arm(
        engine=experiment.engine.name,
        model=experiment.engine.model,
        fingerprint=fingerprint,
        policy=cell.policy,
        budget=cell.budget,
        sampling=experiment.sampling_of(cell.variant),
        template_version=template_version + _wording(experiment.ways[cell.variant]),
        variant=cell.variant,
        # A full cache has nothing to be aware of: one control serves both kinds of treatment.
        question_aware=cell.is_control or experiment.kv.question_aware,
        params=arms.identity_params(experiment.engine, experiment.kv, cell.policy),
        method=measures.METHODS[cell.measure],
    )


def addressed_arms(
    experiment: Experiment, manifests: Mapping[str, TaskManifest], target: Target
) -> Iterator[tuple[Arm, str | None]]:
    """Every arm of the plan, and the addresses declared for it."""
    engine, kv = experiment.engine, experiment.served_kv
    for cell in dict.fromkeys(c for one in cells(experiment) for c in asked(experiment, [one])):
        template = manifests[cell.task].template_version
        arm = arm_of(experiment, cell, template, target.of(experiment, cell))
        yield arm, arms.address_of(engine, kv, cell.policy, cell.budget)


def _wording(way: Variant) -> str:
    """What a variant's own words add to the version of the task's template."""
    return f"+{digest([way.before, way.after])[:16]}" if way.before or way.after else ""


def prompt_of(
    experiment: Experiment,
    task: Task | None,
    entry: ManifestEntry,
    variant: str,
    policy: str,
    measure: str = SCORE,
) -> Prompt:
    """What an experiment sends for a chosen example; without its task, no text.

    Where distributions are compared, a reply ends where the model ends it: no stop cuts it.

    Raises:
        GuardError: the task makes another prompt of it than when it was chosen.
    """
    length = experiment.sampling.max_tokens or entry.max_tokens
    if task is None:
        return Prompt("", "", length)
    prompt, way = pinned_prompt(task, entry), experiment.ways[variant]
    if policy == WITHHELD:
        prompt = task.prompt(assay.shown(entry.example, policy))
    head, tail = way.before + prompt.head, prompt.tail + way.after
    stop = prompt.stop if measure == SCORE else ()
    return dataclasses.replace(prompt, head=head, tail=tail, max_tokens=length, stop=stop)


def _prompt_id(entry: ManifestEntry, policy: str) -> str:
    return digest([entry.prompt, policy]) if policy == WITHHELD else entry.prompt


def requests(
    experiment: Experiment,
    some: Sequence[Cell],
    manifests: Mapping[str, TaskManifest],
    tasks: Mapping[str, Task],
    target: Target,
) -> Iterator[tuple[Cell, Request]]:
    """The requests of cells, each with its cell; the control's once per group, cell or no cell.

    Without `tasks` they have their keys, and no prompts.

    Raises:
        GuardError: a task makes another prompt than when its examples were chosen.
    """
    for group, members in groups(some).items():
        manifest, task = manifests[group.task], tasks.get(group.task)
        again = experiment.asks_again(group.measure)
        arms = {
            cell: arm_of(experiment, cell, manifest.template_version, target.of(experiment, cell))
            for cell in asked(experiment, members)
        }
        for entry in manifest.of_bin(group.bin):
            prompts = {
                policy: prompt_of(experiment, task, entry, group.variant, policy, group.measure)
                for policy in dict.fromkeys(cell.policy for cell in arms)
                if policy in (FULL_CACHE, WITHHELD)
            }
            for draw in range(experiment.draws_of(group.variant)):
                reference = ""
                for cell, arm in arms.items():
                    for aa in (False, True) if cell.is_control and again else (False,):
                        request = Request(
                            arm=arm,
                            task=group.task,
                            bin=group.bin,
                            example_id=entry.example.example_id,
                            replicate=target.replicate_offset + draw,
                            prompt=prompts.get(cell.policy, prompts[FULL_CACHE]),
                            aa=aa,
                            prompt_id=_prompt_id(entry, cell.policy),
                            reference=reference,
                        )
                        reference = reference or (request.key if arm.method else "")
                        yield cell, request


def costs(
    experiment: Experiment, some: Sequence[Cell], manifests: Mapping[str, TaskManifest]
) -> list[Cost]:
    """The costs of cells, by group; without a manifest by the bins' declared sizes and lengths."""
    spent = []
    for group, members in groups(some).items():
        draws = experiment.draws_of(group.variant)
        cells_asked = asked(experiment, members)
        again = experiment.asks_again(group.measure)
        arms = len(cells_asked) + again
        manifest = manifests.get(group.task)
        if manifest is not None:
            lengths = [entry.tokens for entry in manifest.of_bin(group.bin)]
        else:
            lengths = [_middle(experiment, group.bin)] * experiment.bins.per_bins[group.bin]
        tokens = draws * sum(lengths)
        requested = arms * draws * len(lengths)
        whole = arms - sum(cell.policy == WITHHELD for cell in cells_asked)
        shared = 1 + (again and group.measure == SCORE)  # what is forced goes through together
        prefills = shared if arms_per_request(experiment.engine) > 1 else whole
        spent.append(Cost(group, len(members), requested, whole * tokens, prefills * tokens))
    return spent


def _middle(experiment: Experiment, index: int) -> int:
    low, high = experiment.bins.range
    edges = experiment.bins.edges
    if edges is not None:
        bounds = [min(low, edges[0]), *edges, max(high, edges[-1])]
        return (bounds[index] + bounds[index + 1]) // 2
    return int(low + (high - low) * (index + 0.5) / experiment.bins.n)
