"""The summary behind `summary.json`, the report and the terminal."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pytest_kvbench import installed
from pytest_kvbench.analyse.certify import certificates
from pytest_kvbench.analyse.rules import Analysis
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.experiment.snapshot import Keys, Snapshot
from pytest_kvbench.observation import Observation, Observations
from pytest_kvbench.records import SCORE, Cell, Example
from pytest_kvbench.rows import (
    Certificate,
    FlipRow,
    MissingRow,
    Provenance,
    Summary,
)
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.store.store import RunRow

SCHEMA = 1
_FLIPS_PER_CELL = 2
_PACKAGES = ("pytest", "pytest-xdist", "numpy", "torch", "transformers", "kvpress")


ReplyOf = Callable[[Observation], str | None]


def held_reply(one: Observation) -> str | None:
    """The reply that an observation holds."""
    return one.outcome.text


def build_summary(
    experiment: Keys,
    manifests: Mapping[str, TaskManifest],
    analysis: Analysis,
    judged: Observations,
    missing: Sequence[MissingRow],
    run: RunRow,
    reply_of: ReplyOf = held_reply,
) -> Summary:
    """Everything a report says, as JSON data (DESIGN 7 and what the report needs besides).

    Args:
        experiment: the experiment's snapshot.
        manifests: the selection by task.
        analysis: what was made of the scores.
        judged: the observations that were analysed.
        missing: the plan's cells without all their answers, with a reason.
        run: the run these results belong to.
        reply_of: the reply of an observation that is shown, where `judged` hold it as a hash.
    """
    declared = Snapshot(experiment)
    summary: Summary = {
        "schema": SCHEMA,
        "group": declared.get("group"),
        "experiment": dict(experiment),
        "cells": analysis.cells,
        "transitions": analysis.transitions,
        "bin_stats": analysis.bin_stats,
        "integrity": analysis.integrity,
        "efficiency": analysis.efficiency,
        "sensitivity": analysis.sensitivity,
        "tasks": [
            {
                "task": m.task,
                "metric": m.metric,
                "prompts": _wording(m.template_version),
                "template": m.template_version,
                "max_tokens": m.lengths(declared.get("sampling.max_tokens")),
                "tokenizer": m.tokenizer,
                "n": len(m.entries),
            }
            for m in manifests.values()
        ],
        "bins": [
            {
                "task": m.task,
                "bin": b.index,
                "low": b.low,
                "high": b.high,
                "n": len(m.of_bin(b.index)),
            }
            for m in manifests.values()
            for b in m.bins
        ],
        "missing": list(missing),
        "flips": list(_flips(manifests, judged, reply_of)),
        "provenance": provenance_of(run),
        "partial": bool(missing),
    }
    if declared.get("gate.mode") == "certify":
        summary["certificates"] = _certified(analysis, missing)
    return summary


def _certified(analysis: Analysis, missing: Iterable[MissingRow]) -> list[Certificate]:
    lacking = {CellKey.of_row(row): row["reason"] for row in missing}
    floor = analysis.integrity["aa"]
    return certificates(analysis.cells, analysis.sensitivity, floor, lacking)


def _wording(template_version: str) -> str | None:
    """Whose prompts they are, `official` or `own`, where a benchmark has its own."""
    whose, dash, _ = template_version.partition("-")
    return whose if dash else None


def _flips(
    manifests: Mapping[str, TaskManifest], judged: Observations, reply_of: ReplyOf
) -> Iterator[FlipRow]:
    """Examples that the control got right and a treatment did not, a few per cell."""
    examples = {
        entry.example.example_id: entry.example
        for manifest in manifests.values()
        for entry in manifest.entries
    }
    scored = judged.where(
        lambda one: one.outcome.score is not None and not one.aa and one.cell.measure == SCORE
    )
    scores = scored.column("score")
    places = {one.shared: place for place, one in enumerate(scored) if one.cell.is_control}
    shown: Counter[Cell] = Counter()
    for treated in scored:
        place = places.get(treated.shared)
        if place is None or not _is_worse(treated.outcome.score, scores[place]):
            continue
        shown[treated.cell] += 1
        if shown[treated.cell] <= _FLIPS_PER_CELL:
            yield _flip(examples[treated.example_id], scored[place], treated, reply_of)


def _is_worse(treated: float | None, control: float | None) -> bool:
    return (treated or 0.0) < (control or 0.0)


def _flip(
    example: Example, control: Observation, treated: Observation, reply_of: ReplyOf
) -> FlipRow:
    flip: FlipRow = {
        "task": treated.cell.task,
        "bin": treated.cell.bin,
        "policy": treated.cell.policy,
        "budget": treated.cell.budget,
        "example_id": example.example_id,
        "question": example.question,
        "answers": list(example.answers),
        "control_text": reply_of(control),
        "treated_text": reply_of(treated),
        "control": control.outcome.score,
        "treated": treated.outcome.score,
    }
    if treated.cell.variant:
        flip["variant"] = treated.cell.variant
    return flip


def provenance_of(run: RunRow) -> Provenance:
    """Where results come from: versions, hardware, commit, seeds, the run and its command."""
    return {
        "kvbench": installed.version("pytest-kvbench"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": f"{_processor()}, {os.cpu_count()} cores",
        "git_commit": _git_commit(),
        "fingerprint": dict(run.fingerprint),
        "seed": Snapshot(run.snapshot).get("sampling.seed"),
        "replicate_offset": run.replicate_offset,
        "started": run.started_at,
        "finished": run.finished_at,
        "versions": {p: v for p in _PACKAGES if (v := installed.version_if_any(p)) is not None},
        "command": run.command,
    }


def _processor() -> str:
    """The processor's name; `platform.processor()` is empty on most Linux systems."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _git_commit() -> str | None:
    """The commit the run was made from, `+` if files were changed; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],  # noqa: S607 -- the user's own git
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
