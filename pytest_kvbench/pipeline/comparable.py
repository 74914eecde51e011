"""What of two sides can be compared, and what is known to differ between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.errors import InfrastructureError, KvbenchError, UsageError
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.pipeline.baseline import Measured, Side
from pytest_kvbench.report import text
from pytest_kvbench.report.caveats import item


def why_not(base: Side, now: Side, was: Measured, is_: Measured) -> str:
    """Why a cell of both sides cannot be compared; "" where it can."""
    return _other_length(base, now, was.key.task) or _unmeasured(was, is_)


def differences(base: Side, now: Side) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What was declared otherwise, by dotted key, and templates: both values; names aside."""
    yield from _differences(base.experiment, now.experiment)
    yield from _templates(base, now)


def _unmeasured(was: Measured, is_: Measured) -> str:
    sides = (("in base", was.reason), ("now", is_.reason))
    return "; ".join(f"not measured {side}: {reason}" for side, reason in sides if reason)


def _other_length(base: Side, now: Side, task: str) -> str:
    """Where answers were cut off changes them as much as a cache may."""
    was, is_ = (side.asked.get(task, {}).get("max_tokens") for side in (base, now))
    if not was or not is_ or was == is_:
        return ""
    lengths = [text.listing(map(str, counts)) for counts in (was, is_)]
    return f"answers had at most {lengths[0]} new tokens in base, {lengths[1]} now"


def nothing_compared(base: Side, now: Side, reasons: Mapping[CellKey, str]) -> KvbenchError:
    """The error of two sides whose common cells are all left out, for these reasons."""
    place, reason = next(iter(reasons.items()))
    cell = item(place.columns())
    what = f"{base.name} and {now.name}: nothing could be compared: {cell}: {reason}"
    if _other_length(base, now, place.task):
        return UsageError(what, "ask with one sampling.max_tokens on both sides")
    return InfrastructureError(what, "run again what was not measured")


def _templates(base: Side, now: Side) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for task in [task for task in base.asked if task in now.asked]:
        was, is_ = (side.asked[task]["template"] for side in (base, now))
        if was != is_:
            yield f"prompt template of {task}", (was, is_)


def _differences(was: Keys, is_: Keys, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys in which two experiments differ, dotted, with both values; names aside."""
    for key in sorted(was.keys() | is_.keys()):
        old, new = was.get(key), is_.get(key)
        if old == new or f"{prefix}{key}" in ("group", "description", "published"):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", (old, new)
