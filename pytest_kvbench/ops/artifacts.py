"""Arms as content-addressed folders, for whatever keeps artifacts.

    arm_<sha>/meta.json       config, versions, code, seed, dimensions, metrics
    arm_<sha>/answers.jsonl   what was asked and answered, a line each, ordered by task and example
    arm_<sha>/analysis.json   the arm's cells
    _catalog.jsonl            a line per folder, only ever appended to

The name is a hash of the config: same config, same folder, and a folder that is there is never
written again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from pytest_kvbench.files import (
    locked,
    replace_json,
    replace_text,
    sweep,
    unfinished_folder,
    writing,
)
from pytest_kvbench.observation import Observation
from pytest_kvbench.ops.rows import stored_provenance
from pytest_kvbench.ops.stored_plan import Observed, observed
from pytest_kvbench.pipeline.group import Prepared, now
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.records import Arm, Cell, Request, digest, to_json
from pytest_kvbench.report.summary import provenance_of
from pytest_kvbench.rows import CellRow
from pytest_kvbench.store.store import RunRow

CATALOG = "_catalog.jsonl"
SHA_LENGTH = 16


@dataclass(frozen=True)
class Exported:
    """Folders made, and arms that were there already or lack answers."""

    made: tuple[str, ...]
    known: tuple[str, ...]
    incomplete: tuple[str, ...]


@dataclass(frozen=True)
class _Artifact:
    """One arm with all it was asked."""

    arm: Arm
    prepared: Prepared
    requests: Sequence[tuple[Cell, Request]]
    observed: Sequence[Observation]

    @property
    def config(self) -> dict[str, object]:
        """All that decides the answers: the arm, and what it was asked."""
        asked = sorted(request.key for _, request in self.requests)
        return {
            "arm": {**to_json(self.arm), "variant": ""},
            "way": self.prepared.experiment.ways[self.arm.variant].model_dump(mode="json"),
            "max_tokens": sorted({r.prompt.max_tokens for _, r in self.requests}),
            "asked": digest(asked),
        }

    @property
    def name(self) -> str:
        return f"arm_{digest(self.config)[:SHA_LENGTH]}"

    @property
    def complete(self) -> bool:
        return len(self.observed) == len(self.requests)


def export_artifacts(prepared: Prepared, target: Path) -> Exported:
    """Export every arm of a group whose answers are complete.

    Args:
        prepared: the group, answered and scored.
        target: where the folders are; shared by any number of groups.

    Raises:
        StoreError: it cannot be written.
    """
    stored = observed(prepared)
    cells = judge(prepared.experiment, stored.judged).cells
    artifacts = list(_artifacts(prepared, stored))
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    sweep(target)
    with locked(target / ".lock"):
        new = [a for a in artifacts if a.complete and not (target / a.name).exists()]
        for artifact in new:
            _write(artifact, stored.run, cells, target)
    return Exported(
        tuple(a.name for a in new),
        tuple(a.name for a in artifacts if a.complete and a not in new),
        tuple(f"{a.arm.policy} {a.arm.budget:g}" for a in artifacts if not a.complete),
    )


def _artifacts(prepared: Prepared, stored: Observed) -> Iterator[_Artifact]:
    by_arm: dict[str, list[tuple[Cell, Request]]] = {}
    for cell, request in stored.planned:
        by_arm.setdefault(request.arm.arm_id, []).append((cell, request))
    by_key = {one.outcome.key: one for one in stored.rows}
    for asked in by_arm.values():
        came = [by_key[r.key] for _, r in asked if r.key in by_key]
        yield _Artifact(asked[0][1].arm, prepared, asked, came)


def _write(artifact: _Artifact, run: RunRow, cells: Sequence[CellRow], target: Path) -> None:
    """Make the folder whole before it gets its name; then its line in the catalog."""
    of_arm = [c for c in cells if (c["policy"], c["budget"]) == _arm_key(artifact.arm)]
    meta = _meta(artifact, run, of_arm)
    with writing(target):
        with unfinished_folder(target) as room:
            replace_json(room / "meta.json", meta)
            replace_json(room / "analysis.json", {"cells": of_arm})
            replace_text(room / "answers.jsonl", "".join(_lines(artifact)))
            room.chmod(0o755)
            room.rename(target / artifact.name)
        with (target / CATALOG).open("a", encoding="utf-8") as catalog:
            catalog.write(json.dumps({"id": artifact.name, **meta}, sort_keys=True) + "\n")
            catalog.flush()
            os.fsync(catalog.fileno())


def _arm_key(arm: Arm) -> tuple[str, float]:
    return arm.policy, arm.budget


def _meta(artifact: _Artifact, run: RunRow, cells: Sequence[CellRow]) -> dict[str, object]:
    origin = stored_provenance(artifact.prepared.folder, run) or provenance_of(run)
    came = [one.outcome.score for one in artifact.observed]
    scores = [score for score in came if score is not None]
    arm = artifact.arm
    return {
        "config": artifact.config,
        "group": artifact.prepared.experiment.group,
        "code": {
            "kvbench": origin["kvbench"],
            "git_commit": origin["git_commit"],
            "versions": origin["versions"],
        },
        "fingerprint": origin["fingerprint"],
        "seed": origin["seed"],
        "dimensions": {
            "engine": arm.engine,
            "model": arm.model,
            "policy": arm.policy,
            "budget": arm.budget,
            "params": dict(arm.params),
            "question_aware": arm.question_aware,
            "tasks": sorted({r.task for _, r in artifact.requests}),
            "template": arm.template_version,
        },
        "metrics": {
            "answers": len(scores),
            "failures": len(artifact.observed) - len(scores),
            "score_mean": sum(scores) / len(scores) if scores else None,
            "cells": {f"{c['task']} bin {c['bin']}": _figures(c) for c in cells},
        },
        "exported_at": now(),
    }


def _figures(cell: CellRow) -> dict[str, object]:
    return {"delta": cell["delta"], "verdict_holm": cell["verdict_holm"]}


def _lines(artifact: _Artifact) -> Iterator[str]:
    order = attrgetter("cell.task", "cell.bin", "example_id", "replicate", "aa")
    for one in sorted(artifact.observed, key=order):
        yield json.dumps(one.to_json(), sort_keys=True, ensure_ascii=False) + "\n"
