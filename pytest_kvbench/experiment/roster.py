"""One experiment for several models and seeds: of `matrix` a group for each combination."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.limits import MAX_LISTED
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.reading import brief

VALID = "valid: {engine.model: [smollm2-135m, qwen2.5-0.5b], sampling.seed: [0, 1]}"
_NAMED = ("group", "after", "dropped", "stages", "matrix", "extends")
"""Keys that say what groups are called or follow, which a roster does itself."""


@dataclass(frozen=True)
class Member:
    """A combination: its name, as in `GROUP@NAME`, and its values by dotted key."""

    name: str
    values: Keys


def members(matrix: object, where: str) -> list[Member]:
    """The combinations of a matrix, the last key's values turning fastest.

    Args:
        matrix: lists of values by dotted key.
        where: names the file in errors.

    Raises:
        ExperimentError: it is no mapping of lists, or two combinations have one name.
    """
    if not isinstance(matrix, Mapping) or not matrix:
        raise ExperimentError(f"{where}: matrix: {brief(matrix)} names no key with values", VALID)
    listed: dict[str, Sequence[object]] = {}
    for key, values in _leaves(matrix):
        if key.split(".")[0] in _NAMED:
            raise ExperimentError(
                f"{where}: matrix.{key}: a roster says itself what its groups are called",
                f"groups are called GROUP@VALUE.VALUE; {VALID}",
            )
        if not isinstance(values, list | tuple) or not values:
            raise ExperimentError(
                f"{where}: matrix.{key}: {brief(values)} is no list of values of a key", VALID
            )
        listed[key] = values
    found = [
        Member(".".join(map(_slug, values)), dict(zip(listed, values, strict=True)))
        for values in itertools.islice(itertools.product(*listed.values()), MAX_LISTED + 1)
    ]
    if len(found) > MAX_LISTED:
        raise ExperimentError(f"{where}: matrix: makes more than {MAX_LISTED:,} groups", VALID)
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ExperimentError(
            f"{where}: matrix: two groups would be called {twice[0]}",
            "list each value once, and models whose names differ in letters or digits",
        )
    return found


def place_of(invalid: ValidationError, listed: Collection[str]) -> str:
    """`matrix.` where an error is about one of the keys that a matrix lists; else empty."""
    (first, *_) = invalid.errors(include_url=False)
    path = ".".join(map(str, first["loc"]))
    return "matrix." if any(f"{path}.".startswith(f"{key}.") for key in listed) else ""


def _leaves(values: Keys, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _slug(value: Any) -> str:
    """A value as part of a group's name: of a path its last part."""
    last = str(value).rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "x"
