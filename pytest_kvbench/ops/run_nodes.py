"""The nodes of the graph that builds a store: each writes one folder, from a group's database.

Their arguments are plain, so that any process can work on them, here or on another machine.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.observation import Observation, Observations
from pytest_kvbench.ops.run_names import CONTROL, NamedRun, named_runs
from pytest_kvbench.ops.run_rows import About, Entry, Metrics, Timings
from pytest_kvbench.ops.sealed import ANALYSIS, TIMINGS
from pytest_kvbench.ops.target_store import RunStore, lines_of, text_of
from pytest_kvbench.pipeline.group import Prepared, open_group
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.stored_plan import Observed, observed
from pytest_kvbench.records import SCORE
from pytest_kvbench.report.summary import provenance_of
from pytest_kvbench.rows import CellRow

if TYPE_CHECKING:
    from pytest_kvbench.posterior.rows import SamplingRow


def make_target(folder: str, gate: str, variant: str, root: str) -> str:
    """Write the folder of a target; returns its id."""
    group = _opened(folder, gate)
    run = next(run for run in group.arms if run.variant == variant)
    config = run.target_config
    rows = _rows(group, variant, CONTROL)
    scores = [score for score in rows.column("score") if score is not None]
    about = _about(group, run)
    meta: Entry = {
        "kind": "target",
        "id": run.target,
        "config": config,
        "code": about["code"],
        "dims": about["dims"],
        "metrics": {"n": len(scores), "mean": _mean(scores), "std": _std(scores)},
    }
    place = RunStore(Path(root)).target(run.target)
    RunStore(Path(root)).put(place, meta, {"control.jsonl": lines_of(_lines(rows))})
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
    about = _about(group, run)
    margin = group.prepared.experiment.gate.loss
    meta: Entry = {
        "kind": "run",
        "id": run.name,
        "target": target,
        "config": run.config,
        "metrics": _metrics(rows, cells),
        "code": about["code"],
        "dims": {**about["dims"], "policy": policy, "budget": budget, "margin": margin},
    }
    files = {
        "answers.jsonl": lines_of(_lines(rows)),
        ANALYSIS: text_of({"cells": cells}),
        TIMINGS: text_of(_timings(rows)),
    }
    store = RunStore(Path(root))
    store.put(store.run(target, run.name), meta, files)
    return run.name


def make_posterior_of(
    groups: Sequence[tuple[str, str]], how: SamplingRow, margin: float, root: str, *_runs: str
) -> str:
    """Write the folder of a posterior over groups whose runs are there; returns its id.

    Args:
        groups: folder and rules of each.
        how: a `Sampling`.
    """
    from pytest_kvbench.ops.posteriors import inputs_of, make_posterior
    from pytest_kvbench.posterior.draws import Sampling

    inputs = inputs_of([_prepared(folder, gate) for folder, gate in groups])
    return make_posterior(inputs, Sampling(**how), margin, Path(root)).folder.name


@dataclass(frozen=True, eq=False)
class _Group:
    prepared: Prepared
    stored: Observed
    arms: Sequence[NamedRun]


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
    prepared = _prepared(folder, gate)
    return _Group(prepared, observed(prepared), named_runs(prepared)[0])


def _prepared(folder: str, gate: str) -> Prepared:
    """A group with the rules by which it is judged now."""
    prepared = open_group(Path(folder))
    rules = Gate(**json.loads(gate))
    judged_by = prepared.experiment.model_copy(update={"gate": rules})
    return replace(prepared, experiment=judged_by)


def _of(rows: Observations, variant: str, arms: Iterable[tuple[str, float]]) -> Observations:
    wanted = set(arms)
    return rows.where(
        lambda one: (
            (one.cell.variant, one.cell.measure) == (variant, SCORE)
            and (one.cell.policy, one.cell.budget) in wanted
        )
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
    rows = _of(group.stored.judged, variant, [CONTROL, arm])
    cells = [replace(cell, variant="") for cell in rows.column("cell")]
    found = judge(alone, rows.with_columns(cell=cells)).cells
    return [row for row in found if row["policy"] == arm[0]]


def _lines(rows: Iterable[Observation]) -> list[dict[str, object]]:
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


def _timings(rows: Observations) -> Timings:
    latencies = [value for value in rows.column("latency_s") if value is not None]
    firsts = [value for value in rows.column("ttft_s") if value is not None]
    return {
        "wall_s": sum(latencies) if latencies else None,
        "latency_p50_s": statistics.median(latencies) if latencies else None,
        "ttft_p50_s": statistics.median(firsts) if firsts else None,
    }


def _about(group: _Group, run: NamedRun) -> About:
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


def _metrics(rows: Observations, cells: Sequence[CellRow]) -> Metrics:
    """Key figures over all tasks and bins; verdict and delta where there is one headline row."""
    scores = [score for score in rows.column("score") if score is not None]
    kept = [share for share in rows.column("achieved") if share is not None]
    pooled = [row for row in cells if row["bin"] == "all"]
    about: Metrics = {
        "n": len(scores),
        "mean": _mean(scores),
        "std": _std(scores),
        "achieved": _mean(kept),
    }
    heads = pooled or cells
    return {**about, **_headline(heads[0])} if len(heads) == 1 else about


def _headline(row: CellRow) -> Metrics:
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
