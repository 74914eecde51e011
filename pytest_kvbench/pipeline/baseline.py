"""The scores of a group as they are now, or as they were when saved.

A baseline is one plain JSON file per group, `<reports>/.baselines/NAME/<group>.json`, with the same
content: it needs no database, and may be kept under version control.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.files import replace_json
from pytest_kvbench.observation import Observation
from pytest_kvbench.pipeline.group import now
from pytest_kvbench.rows import CellRow

FOLDER = ".baselines"
SCHEMA = 1


@dataclass(frozen=True)
class Measured:
    """One cell: scores in [0, 1] by example, averaged over replicates, and the examples' clusters.

    `verdict` is the one that counts, after the correction; None for a control.
    """

    key: CellKey
    verdict: str | None
    scores: Mapping[str, float]
    clusters: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data; an example's score and cluster stand together."""
        scores = {e: [score, self.clusters[e]] for e, score in self.scores.items()}
        more = {"verdict": self.verdict, "scores": scores, "clusters": None}
        return {**self.key.columns(), **more}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measured:
        """Read back what `to_json` wrote."""
        scores = {e: float(score) for e, (score, _) in data["scores"].items()}
        clusters = {e: str(cluster) for e, (_, cluster) in data["scores"].items()}
        return cls(CellKey.of_row(data), data["verdict"], scores, clusters)


@dataclass(frozen=True)
class Side:
    """One side of a comparison. `pooled` are the verdicts over all bins, by `pooled_key`."""

    name: str
    experiment: Mapping[str, Any]
    cells: Sequence[Measured]
    pooled: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The content of a baseline's file, as JSON data."""
        cells = [cell.to_json() for cell in self.cells]
        return {**vars(self), "cells": cells, "schema": SCHEMA, "saved_at": now()}


def pooled_key(key: CellKey) -> str:
    """The name of a row over all bins in a baseline's file."""
    return json.dumps([key.task, key.variant, key.policy, key.budget])


def side_from(
    experiment: Experiment, judged: Sequence[Observation], cells: Sequence[CellRow]
) -> Side:
    """A group as an analysis found it.

    Args:
        experiment: the group's.
        judged: the observations.
        cells: what was made of them, as in `summary.json`.
    """
    words = {CellKey.of_row(row): row["verdict_holm"] for row in cells}
    pooled = {pooled_key(key): word for key, word in words.items() if word and key.is_pooled}
    return Side(experiment.group, experiment.snapshot(), _measured(judged, words), pooled)


def _measured(judged: Sequence[Observation], words: Mapping[CellKey, str | None]) -> list[Measured]:
    scores: dict[CellKey, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    clusters = {one.example_id: one.cluster for one in judged}
    for one in judged:
        if one.outcome.score is not None and not one.aa:
            scores[CellKey.of(one.cell)][one.example_id].append(one.outcome.score)
    return [
        Measured(
            key,
            words.get(key),
            {example: sum(s) / len(s) for example, s in by_example.items()},
            {example: clusters[example] for example in by_example},
        )
        for key, by_example in scores.items()
    ]


# -- files ---------------------------------------------------------------------------------------


def save_baseline(side: Side, reports: Path, name: str) -> Path:
    """Keep a side under a name; a group's older baseline of that name is replaced.

    Raises:
        UsageError: the name is no folder name.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(
            f"{name!r} cannot be a baseline's name", "valid: a folder name, as in main or v1.2"
        )
    path = reports / FOLDER / name / f"{side.name}.json"
    replace_json(path, side.to_json())
    return path


def load_baseline(path: Path) -> Side:
    """Read a baseline's file.

    Raises:
        UsageError: the file is no baseline.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        data.pop("saved_at")
        return Side(**{**data, "cells": [Measured.from_json(cell) for cell in data["cells"]]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: is no baseline: {error}", "make one: kvbench save NAME GROUP"
        ) from None


def baseline_folder(reports: Path, name: str) -> Path:
    """Where the baselines of a name are.

    Raises:
        UsageError: there are none; the hint lists the names there.
    """
    folder = reports / FOLDER / name
    if not folder.is_dir():
        names = sorted(p.name for p in (reports / FOLDER).glob("*") if p.is_dir())
        raise UsageError(
            f"{name!r} is no baseline in {reports / FOLDER}",
            f"baselines there: {', '.join(names) or 'none'}; make one: --kvbench-save NAME",
        )
    return folder


def find_baseline(reports: Path, name: str, group: str) -> Side | None:
    """The baseline of one group; None where that name has none of it.

    Raises:
        UsageError: nothing has that name, or the file is none of ours.
    """
    path = baseline_folder(reports, name) / f"{group}.json"
    return load_baseline(path) if path.is_file() else None
