"""What `kvbench compare` and `kvbench save` name: groups, baselines and their files."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import baseline_folder
from pytest_kvbench.ops.cards import Card
from pytest_kvbench.pipeline.baseline import (
    Side,
    existing_folder,
    load_baseline,
    side_from,
)
from pytest_kvbench.pipeline.group import Prepared, open_group
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.store.places import group_names, is_group


def side_of(prepared: Prepared) -> Side:
    """A group as it is now, judged by its own experiment's rules. Changes nothing.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    rows = observed(prepared).judged
    return side_from(prepared, rows, judge(prepared.experiment, rows).cells)


def find_side(name: str, reports: Path, group: str | None = None) -> Side:
    """A side by its group, its file, or its baseline's name.

    Args:
        name: a group in `reports`, a baseline's `.json` file, or a baseline's name.
        reports: where groups and baselines are kept.
        group: which group of a baseline of several.

    Raises:
        UsageError: nothing has that name, or a baseline holds several groups and none is named.
    """
    if name.endswith(".json"):
        return load_baseline(Path(name))
    if is_group(reports / name):
        return side_of(open_group(reports / name))
    held = {path.stem: path for path in sorted(_named(reports, name).glob("*.json"))}
    chosen = held.get(group or "") or (next(iter(held.values())) if len(held) == 1 else None)
    if chosen is None:
        raise UsageError(
            f"baseline {name} holds {', '.join(held) or 'nothing'}",
            f"name its file: {baseline_folder(reports, name)}/GROUP.json",
        )
    return load_baseline(chosen)


def side_at(path: Path) -> Side | None:
    """What is ours at a path: a group's folder, a baseline's file, a card; None for all else.

    Raises:
        UsageError: it is ours and cannot be read.
    """
    if path.is_dir():
        return side_of(open_group(path)) if is_group(path) else None
    if path.suffix != ".json":
        return None
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # its reader says what is wrong with it
    if not isinstance(data, dict):
        return None
    if "card" in data:
        return Card.load(path).side
    return load_baseline(path) if {"cells", "pooled"} <= data.keys() else None


def _named(reports: Path, name: str) -> Path:
    try:
        return existing_folder(reports, name)
    except UsageError as error:
        groups = group_names(reports)
        raise UsageError(
            f"{name!r} is neither a group nor a baseline in {reports}",
            f"groups there: {', '.join(groups) or 'none'}; {error.hint}",
        ) from None
