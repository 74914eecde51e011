"""The scores of a group as they are now, or as they were when saved.

A baseline is one plain JSON file per group, `<reports>/.baselines/NAME/<group>.json` or
`PATH/<group>.json`, with the same content: it needs no database, has an example on each line, and
is the same file where nothing changed, so that it may be kept under version control.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NotRequired, TypedDict

from pytest_kvbench import hints
from pytest_kvbench.cellkey import CellKey, Columns
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.files import BASELINES, baseline_folder, readable_json, replace_text, writing
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.records import FULL_CACHE, SCORE
from pytest_kvbench.report import text
from pytest_kvbench.report.caveats import item_of
from pytest_kvbench.rows import CellRow

SCHEMA = 1
_NAMED = 3
PAIR = re.compile(r"\[\n +([^\n\[{]+,)\n +([^\n]+)\n +\]")
"""A list of two, over four lines. Text has no line breaks of its own in JSON."""


class MeasuredRow(Columns):
    """A cell in a baseline's file: of each example score, cluster, and the most it can be."""

    verdict: str | None
    scores: dict[str, list[float | str]]
    clusters: None
    reason: NotRequired[str]


class Asked(TypedDict, total=False):
    """What prompts of a task had in common: the template's version, and lengths of replies."""

    template: str
    max_tokens: list[int]


class SideRow(TypedDict):
    """A baseline's file."""

    name: str
    experiment: Keys
    cells: list[MeasuredRow]
    pooled: Mapping[str, str]
    asked: NotRequired[Mapping[str, Asked]]
    schema: int


@dataclass(frozen=True)
class Measured:
    """One cell: scores in [0, 1] by example, averaged over replicates, and the examples' clusters.

    `highs` are the most that scores can be, of those that are known between bounds: see `readings`.
    `verdict` is the one that counts, after the correction; None for a control. `reason` is why
    nothing follows from the scores, "" where something does.
    """

    key: CellKey
    verdict: str | None
    scores: Mapping[str, float]
    clusters: Mapping[str, str]
    reason: str = ""
    highs: Mapping[str, float] = field(default_factory=dict)

    @property
    def highest(self) -> Measured:
        """With every score the most that it can be."""
        return replace(self, scores={**self.scores, **self.highs}) if self.highs else self

    def to_json(self) -> MeasuredRow:
        """Plain data; an example's score and cluster stand together, and the most it can be."""
        most = {e: [self.highs[e]] for e in self.highs}
        return {
            **self.key.columns(),
            "verdict": self.verdict,
            "scores": {
                e: [score, self.clusters[e], *most.get(e, ())] for e, score in self.scores.items()
            },
            "clusters": None,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: MeasuredRow) -> Measured:
        """Read back what `to_json` wrote."""
        scores = {e: float(score) for e, (score, *_) in data["scores"].items()}
        clusters = {e: str(cluster) for e, (_, cluster, *_) in data["scores"].items()}
        highs = {e: float(most) for e, (_, _, *high) in data["scores"].items() for most in high}
        reason = data.get("reason", "")  # older files lack it
        return cls(CellKey.of_row(data), data["verdict"], scores, clusters, reason, highs)


@dataclass(frozen=True)
class Side:
    """One side of a comparison. `pooled` are the verdicts over all bins, by `pooled_key`.

    `asked` is what prompts of a task had in common, by task: the template's version, and how many
    new tokens they asked for at most; empty in older files.
    """

    name: str
    experiment: Keys
    cells: Sequence[Measured]
    pooled: Mapping[str, str]
    asked: Mapping[str, Asked] = field(default_factory=dict)

    def to_json(self) -> SideRow:
        """The content of a baseline's file, as JSON data."""
        return {
            "name": self.name,
            "experiment": self.experiment,
            "cells": [cell.to_json() for cell in self.cells],
            "pooled": self.pooled,
            "asked": self.asked,
            "schema": SCHEMA,
        }

    @classmethod
    def from_json(cls, data: SideRow) -> Side:
        """Read back what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is something else.
        """
        if data["schema"] != SCHEMA:
            raise ValueError("another schema")
        cells = [Measured.from_json(cell) for cell in data["cells"]]
        asked = data.get("asked", {})  # older files lack it
        return cls(data["name"], data["experiment"], cells, data["pooled"], asked)


def pooled_key(key: CellKey) -> str:
    """The name of a row over all bins in a baseline's file."""
    measure = [] if key.measure == SCORE else [key.measure]
    return json.dumps([key.task, key.variant, key.policy, key.budget, *measure])


def side_from(prepared: Prepared, judged: Observations, cells: Sequence[CellRow]) -> Side:
    """A group as an analysis found it.

    Args:
        prepared: the group.
        judged: the observations.
        cells: what was made of them, as in `summary.json`.
    """
    experiment = prepared.experiment
    rows = {CellKey.of_row(row): row for row in cells}
    words = {key: row["verdict_holm"] for key, row in rows.items() if key.is_pooled}
    asked: dict[str, Asked] = {
        task: {
            "template": manifest.template_version,
            "max_tokens": manifest.lengths(experiment.sampling.max_tokens),
        }
        for task, manifest in prepared.manifests.items()
    }
    return Side(
        experiment.group,
        experiment.snapshot(),
        _measured(judged, rows),
        {pooled_key(key): word for key, word in words.items() if word},
        asked,
    )


def _measured(judged: Observations, rows: Mapping[CellKey, CellRow]) -> list[Measured]:
    scores: dict[CellKey, dict[str, list[float]]] = {
        key: defaultdict(list) for key in rows if not key.is_pooled
    }
    most = {key: defaultdict[str, list[float]](list) for key in scores}
    clusters = {one.example_id: one.cluster for one in judged}
    for one in judged:
        key, score, high = (
            CellKey.of(one.cell),
            one.outcome.score,
            one.outcome.high(one.cell.measure),
        )
        if key in scores and score is not None and high is not None and not one.aa:
            scores[key][one.example_id].append(score)
            most[key][one.example_id].append(high)
    return [
        Measured(
            key,
            rows[key]["verdict_holm"],
            _means(by_example),
            {example: clusters[example] for example in by_example},
            _why_unmeasured(rows[key], scored=bool(by_example)),
            _means({e: most[key][e] for e, s in by_example.items() if most[key][e] != s}),
        )
        for key, by_example in scores.items()
    ]


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {example: sum(some) / len(some) for example, some in values.items()}


def _why_unmeasured(row: CellRow, *, scored: bool) -> str:
    """Of a control: why it is not sane."""
    if row["policy"] == FULL_CACHE or row["verdict_holm"] == "not-measured":
        return row["reason"]
    return "" if scored else "it has no scored answer"


def unmeasured(side: Side) -> str:
    """How many of its cells were not measured, which, and why; "" where all were."""
    lacking = [cell for cell in side.cells if cell.reason]
    if not lacking:
        return ""
    names = text.listing((item_of(cell.key) for cell in lacking), limit=_NAMED)
    return f"{hints.count(len(lacking), 'cell')} not measured: {names}: {lacking[0].reason}"


# -- files ---------------------------------------------------------------------------------------


def save_baseline(side: Side, reports: Path, name: str) -> Path:
    """Keep a side under a name; a group's older baseline of that name is replaced.

    Raises:
        UsageError: the name is no folder name.
    """
    if "/" not in name and (Path(name).name != name or not name.strip(".") or name[0] == "."):
        raise UsageError(
            f"{name!r} cannot be a baseline's name",
            "valid: a folder name, as in main or v1.2, or a folder's path, as in ./baselines",
        )
    path = baseline_file(reports, name, side.name)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, PAIR.sub(r"[\1 \2]", readable_json(side.to_json())))
    return path


def baseline_file(reports: Path, name: str, group: str) -> Path:
    """Where a group's baseline of a name is, or would be."""
    return baseline_folder(reports, name) / f"{group}.json"


_MADE_BY = "make one: kvbench save NAME GROUP, or pytest --kvbench-save NAME"


def load_baseline(path: Path) -> Side:
    """Read a baseline's file.

    Raises:
        UsageError: the file is no baseline.
    """
    try:
        return Side.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no baseline: {error}", _MADE_BY) from None
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: is no baseline: it is of another shape", _MADE_BY) from None


def existing_folder(reports: Path, name: str) -> Path:
    """Where the baselines of a name are.

    Raises:
        UsageError: that name has no baselines; the hint lists the names there are.
    """
    folder = baseline_folder(reports, name)
    if not folder.is_dir():
        names = sorted(p.name for p in (reports / BASELINES).glob("*") if p.is_dir())
        raise UsageError(
            f"{name!r} is no baseline in {reports / BASELINES}",
            f"baselines there: {', '.join(names) or 'none'}; make one: --kvbench-save NAME",
        )
    return folder


def find_baseline(reports: Path, name: str, group: str) -> Side | None:
    """The baseline of one group; None where that name has none of it.

    Raises:
        UsageError: no baseline has that name, or its file is not one of ours.
    """
    existing_folder(reports, name)
    path = baseline_file(reports, name, group)
    return load_baseline(path) if path.is_file() else None
