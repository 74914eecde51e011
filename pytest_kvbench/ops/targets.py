"""Targets and runs of groups, built into the content-addressed store: see `target_store`.

A target is what arms are measured on: model, data, prompts, seed and control. A run is one arm
under it with the rules that judge it, judged alone, so that it is the same whatever else its group
asked. Each is a node that needs nothing but the group's database: here, or on Parsl's workers.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.observation import Observation, Observations
from pytest_kvbench.ops.stored_plan import Observed, observed, stored_plan
from pytest_kvbench.ops.target_store import (
    ANALYSIS,
    META,
    TIMINGS,
    RunStore,
    lines_of,
    run_id,
    target_id,
    text_of,
)
from pytest_kvbench.pipeline.group import Prepared, open_group
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.records import FULL_CACHE, Arm, digest
from pytest_kvbench.report.summary import provenance_of
from pytest_kvbench.rows import CellRow
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.store.store import Store

Submit = Callable[..., concurrent.futures.Future[str]]
"""Runs a function with arguments, of which futures are waited for: here or elsewhere."""

_UNJUDGED = ("mode", "undetermined")
"""Keys of `gate` that say what becomes of a verdict, not what it is."""

ControlName = (FULL_CACHE, 1.0)


@dataclass(frozen=True)
class Built:
    """Ids of folders made, of those that were there, and arms that lack answers."""

    made: tuple[str, ...]
    known: tuple[str, ...]
    incomplete: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    """One arm of a group's variant, as far as its name needs it."""

    prepared: Prepared
    variant: str
    arm: Arm
    control: Arm

    @property
    def target_config(self) -> dict[str, Any]:
        """All that decides what the arm is measured on. No name of a group, no place of a file."""
        experiment = self.prepared.experiment
        sampling = experiment.sampling.model_dump(mode="json")
        way = experiment.ways[self.variant].model_dump(mode="json")
        return {
            "model": {
                "engine": self.control.engine,
                "model": self.control.model,
                "dtype": experiment.engine.dtype,
                "fingerprint": self.control.fingerprint,
            },
            "data": {name: _data(m) for name, m in sorted(self.prepared.manifests.items())},
            "prompts": {"before": way["before"], "after": way["after"]},
            "sampling": {
                **sampling,
                "temperature": self.control.sampling.temperature,
                "top_p": self.control.sampling.top_p,
            },
            "control": {"policy": FULL_CACHE, "aa": experiment.aa},
        }

    @property
    def config(self) -> dict[str, Any]:
        """All that decides the run: its target, the arm, and the rules that judge it."""
        gate = self.prepared.experiment.gate.model_dump(mode="json", exclude=set(_UNJUDGED))
        return {
            "target": self.target,
            "policy": self.arm.policy,
            "budget": self.arm.budget,
            "params": dict(self.arm.params),
            "question_aware": self.arm.question_aware,
            "fingerprint": self.arm.fingerprint,
            "rules": gate,
        }

    @functools.cached_property
    def target(self) -> str:
        return target_id(self.target_config)

    @functools.cached_property
    def name(self) -> str:
        return run_id(self.arm.policy, self.config)


def _data(manifest: TaskManifest) -> dict[str, Any]:
    """What a task's examples are, by content."""
    entries = [
        [e.example.example_id, e.bin, e.prompt, e.max_tokens, e.tokens] for e in manifest.entries
    ]
    return {
        "metric": manifest.metric,
        "template": manifest.template_version,
        "tokenizer": manifest.tokenizer,
        "bins": [[b.index, b.low, b.high] for b in manifest.bins],
        "examples": len(entries),
        "entries": digest(entries),
    }


def here(function: Callable[..., str], *args: Any) -> concurrent.futures.Future[str]:
    """`Submit` in this process, at once."""
    done: concurrent.futures.Future[str] = concurrent.futures.Future()
    given = [a.result() if isinstance(a, concurrent.futures.Future) else a for a in args]
    done.set_result(function(*given))
    return done


def build(groups: Sequence[Prepared], root: Path, submit: Submit = here) -> Built:
    """Build the targets and runs of groups that the store lacks; asks nobody.

    Args:
        groups: answered and scored; `experiment.gate` are the rules by which runs are judged.
        root: the store's folder, shared by any number of groups.
        submit: where the nodes are worked on.

    Raises:
        MissingPrerequisiteError: an answer has no score.
        StoreError: it cannot be written.
    """
    store = RunStore(root)
    targets: dict[str, concurrent.futures.Future[str]] = {}
    runs: dict[str, concurrent.futures.Future[str]] = {}
    known: dict[str, None] = {}
    incomplete: list[str] = []
    for prepared in groups:
        gate = json.dumps(prepared.experiment.gate.model_dump(mode="json"))
        whole, lacking = _arms(prepared)
        incomplete += lacking
        for run in whole:
            place = (str(prepared.folder.absolute()), gate, run.variant)
            if store.run(run.target, run.name).exists():
                known[run.name] = None
                continue
            if run.target not in targets:
                targets[run.target] = submit(make_target, *place, str(root.absolute()))
            if run.name not in runs:
                arm = (run.arm.policy, run.arm.budget)
                after = targets[run.target]
                runs[run.name] = submit(make_run, *place, *arm, str(root.absolute()), after)
    for future in [*targets.values(), *runs.values()]:
        future.result()
    store.index()
    return Built(tuple(runs), tuple(known), tuple(incomplete))


def _arms(prepared: Prepared) -> tuple[list[_Run], list[str]]:
    """The arms of the plan whose answers and whose control's are all there; names of the others."""
    with Store(prepared.database, reads=True) as store:
        planned = stored_plan(prepared, store)
        settled = store.settled([request.key for _, request in planned])
    asked: dict[tuple[str, str, float], list[Any]] = {}
    for cell, request in planned:
        asked.setdefault((cell.variant, cell.policy, cell.budget), []).append(request)
    whole = {key for key, some in asked.items() if all(r.key in settled for r in some)}
    found, lacking = [], []
    for key, some in asked.items():
        variant, policy, budget = key
        if (policy, budget) == ControlName or _is_beside(prepared, key):
            continue
        if key in whole and (variant, *ControlName) in whole:
            control = asked[variant, *ControlName][0].arm
            found.append(_Run(prepared, variant, some[0].arm, control))
        else:
            lacking.append(f"{policy} {budget:g}")
    return found, lacking


def _is_beside(prepared: Prepared, key: tuple[str, str, float]) -> bool:
    return not any((c.variant, c.policy, c.budget) == key for c in prepared.cells)


# -- nodes: plain arguments, so that any process can work on them -------------------------------


def make_target(folder: str, gate: str, variant: str, root: str) -> str:
    """Write the folder of a target; returns its id."""
    group = _opened(folder, gate)
    run = next(run for run in group.arms if run.variant == variant)
    config = run.target_config
    rows = _rows(group, variant, ControlName)
    scores = [score for score in rows.column("score") if score is not None]
    meta = {
        "kind": "target",
        "id": run.target,
        "config": config,
        **_about(group, run),
        "metrics": {"n": len(scores), "mean": _mean(scores), "std": _std(scores)},
    }
    place = RunStore(Path(root)).target(run.target)
    RunStore(Path(root)).put(place, {META: text_of(meta), "control.jsonl": lines_of(_lines(rows))})
    return run.target


def make_run(
    folder: str, gate: str, variant: str, policy: str, budget: float, root: str, target: str
) -> str:
    """Write the folder of a run under its target, which is there; returns its id."""
    group = _opened(folder, gate)
    wanted = (variant, policy, budget)
    run = next(r for r in group.arms if (r.variant, r.arm.policy, r.arm.budget) == wanted)
    rows = _rows(group, variant, (policy, budget))
    cells = _judged(group, variant, (policy, budget))
    meta: dict[str, Any] = {
        "kind": "run",
        "id": run.name,
        "target": target,
        "config": run.config,
        "metrics": _metrics(rows, cells),
        **_about(group, run),
    }
    margin = group.prepared.experiment.gate.loss
    meta["dims"] |= {"policy": policy, "budget": budget, "margin": margin}
    files = {
        META: text_of(meta),
        "answers.jsonl": lines_of(_lines(rows)),
        ANALYSIS: text_of({"cells": cells}),
        TIMINGS: text_of(_timings(rows)),
    }
    RunStore(Path(root)).put(RunStore(Path(root)).run(target, run.name), files)
    return run.name


@dataclass(frozen=True, eq=False)
class _Group:
    prepared: Prepared
    stored: Observed
    arms: Sequence[_Run]


def _opened(folder: str, gate: str) -> _Group:
    """A group with its observations: read once for all of its nodes in a process."""
    database = Path(folder) / "kvbench.sqlite"
    stamps = [
        file.stat().st_mtime_ns
        for file in (database, database.with_name("kvbench.sqlite-wal"))
        if file.exists()
    ]
    return _read(folder, gate, tuple(stamps))


@functools.lru_cache(maxsize=1)
def _read(folder: str, gate: str, _stamps: tuple[int, ...]) -> _Group:
    prepared = open_group(Path(folder))
    rules = Gate(**json.loads(gate))
    judged_by = prepared.experiment.model_copy(update={"gate": rules})
    prepared = replace(prepared, experiment=judged_by)
    return _Group(prepared, observed(prepared), _arms(prepared)[0])


def _of(rows: Observations, variant: str, arms: Iterable[tuple[str, float]]) -> Observations:
    wanted = set(arms)
    return rows.where(
        lambda one: one.cell.variant == variant and (one.cell.policy, one.cell.budget) in wanted
    )


def _rows(group: _Group, variant: str, arm: tuple[str, float]) -> Observations:
    return _of(group.stored.rows, variant, [arm])


def _judged(group: _Group, variant: str, arm: tuple[str, float]) -> list[CellRow]:
    """The arm's cells, judged as if nothing else had been asked, and under no variant's name."""
    experiment = group.prepared.experiment
    named = {"policies": (arm[0],), "budgets": (1.0, arm[1]) if arm[1] < 1 else (1.0,)}
    alone = experiment.model_copy(
        update={
            "kv": experiment.kv.model_copy(update=named),
            "variants": {},
            "dropped": {},
            "sensitivity": None,
        }
    )
    rows = _of(group.stored.judged, variant, [ControlName, arm])
    cells = [replace(cell, variant="") for cell in rows.column("cell")]
    found = judge(alone, rows.with_columns(cell=cells)).cells
    return [row for row in found if row["policy"] == arm[0]]


def _lines(rows: Iterable[Observation]) -> list[dict[str, Any]]:
    """What was answered, ordered by task and example: no times, no keys, no names of variants."""
    ordered = sorted(rows, key=lambda o: (o.cell.task, o.cell.bin, o.example_id, o.replicate, o.aa))
    first = min((one.replicate for one in ordered), default=0)
    return [
        {
            **{name: value for name, value in one.to_json().items() if name not in _NOT_SAME},
            "replicate": one.replicate - first,
        }
        for one in ordered
    ]


_NOT_SAME = ("variant", "key", "latency_s", "ttft_s", "origin", "message")


def _timings(rows: Observations) -> dict[str, Any]:
    latencies = [value for value in rows.column("latency_s") if value is not None]
    firsts = [value for value in rows.column("ttft_s") if value is not None]
    return {
        "wall_s": sum(latencies) if latencies else None,
        "latency_p50_s": statistics.median(latencies) if latencies else None,
        "ttft_p50_s": statistics.median(firsts) if firsts else None,
    }


def _about(group: _Group, run: _Run) -> dict[str, Any]:
    """Versions, seed and dimensions."""
    origin = provenance_of(group.stored.run)
    experiment, manifests = group.prepared.experiment, group.prepared.manifests
    return {
        "code": {"kvbench": origin["kvbench"], "versions": origin["versions"]},
        "dims": {
            "model": run.control.model,
            "tasks": ",".join(sorted(manifests)),
            "examples": sum(len(manifest.entries) for manifest in manifests.values()),
            "seed": experiment.sampling.seed,
        },
    }


def _metrics(rows: Observations, cells: Sequence[CellRow]) -> dict[str, Any]:
    """Key figures over all tasks and bins; verdict and delta where there is one headline row."""
    scores = [score for score in rows.column("score") if score is not None]
    kept = [share for share in rows.column("achieved") if share is not None]
    pooled = [row for row in cells if row["bin"] == "all"]
    about = {"n": len(scores), "mean": _mean(scores), "std": _std(scores), "achieved": _mean(kept)}
    heads = pooled or cells
    return {**about, **_headline(heads[0])} if len(heads) == 1 else about


def _headline(row: CellRow) -> dict[str, Any]:
    return {
        "delta": row["delta"],
        "ci_low": row["ci_low"],
        "ci_high": row["ci_high"],
        "proof": row["proof"],
        "verdict": row["verdict_holm"],
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
