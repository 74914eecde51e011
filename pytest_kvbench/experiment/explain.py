"""A wrong key or value in two lines: file, key and value; what is valid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.hints import did_you_mean
from pytest_kvbench.reading import brief


def explain(
    invalid: ValidationError, origins: Mapping[str, str], default_source: str, at: str = ""
) -> ExperimentError:
    """The error of an experiment that is not valid: file, key and value; what is valid.

    Args:
        invalid: the schema's error.
        origins: where each key was set.
        default_source: where the others come from.
        at: the place of a stage's own keys in the file, with a dot at its end; else "".
    """
    error = _most_telling(invalid)
    if at:  # the base itself was valid
        origins = {k.removeprefix(at): v for k, v in origins.items() if k.startswith(at)}
    path = [str(part) for part in error["loc"]]
    field_path, section, info = _field(path)
    # A list adds its index; a union adds the name of its member's type, which says nothing.
    indices = [part for part in error["loc"][len(field_path) :] if isinstance(part, int)]
    key = ".".join([*field_path, *map(str, indices)]) or "experiment"
    source = origin_of(origins, key, default_source)
    if error["type"] == "extra_forbidden":
        unknown = ".".join(path)
        return ExperimentError(
            f"{origin_of(origins, unknown, default_source)}: {at}{unknown}: unknown key",
            _nearest(path[-1], section),
        )
    if error["type"] == "missing":
        return ExperimentError(f"{source}: {at}{key}: is missing", _valid(info, section))
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], Mapping) else f"{brief(error['input'])} is not valid: "
    return ExperimentError(f"{source}: {at}{key}: {given}{message}", _valid(info, section))


def _most_telling(invalid: ValidationError) -> ErrorDetails:
    """The first error; of a union's, each member's, the one that went deepest."""
    errors = invalid.errors(include_url=False)
    place, _, _ = _field([str(part) for part in errors[0]["loc"]])
    of_one_key = [e for e in errors if list(e["loc"][: len(place)]) == place]
    deeper = [e for e in of_one_key[1:] if e["type"] not in ("extra_forbidden", "missing")]
    return max(errors[:1] + deeper, key=lambda e: len(e["loc"]))


def _field(path: Sequence[str]) -> tuple[list[str], type[BaseModel], FieldInfo | None]:
    """The longest part of `path` that names a field, the section it leads to, and the field."""
    section: type[BaseModel] = Experiment
    for depth, part in enumerate(path):
        info = section.model_fields.get(part)
        if info is None:
            return list(path[:depth]), section, None
        if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            return list(path[: depth + 1]), section, info
        section = info.annotation
    return list(path), section, None


def _nearest(word: str, section: type[BaseModel]) -> str:
    names = sorted(section.model_fields)
    return f"{did_you_mean(word, names)}valid keys: {', '.join(names)}"


def _valid(info: FieldInfo | None, section: type[BaseModel]) -> str:
    """What a key takes, in words, and its default."""
    if info is None:
        return f"valid keys: {', '.join(sorted(section.model_fields))}"
    default = info.get_default(call_default_factory=True)
    shown = list(default) if isinstance(default, tuple) else default
    return f"valid: {info.description}" + ("" if info.is_required() else f"; default {shown}")


def origin_of(origins: Mapping[str, str], key: str, default: str = "experiment") -> str:
    """The source of the longest known prefix of `key`."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((origins[p] for p in prefixes if p in origins), default)


def joined(prefix: str, key: object) -> str:
    """A key below another, with a dot: `engine.model`."""
    return f"{prefix}.{key}" if prefix else str(key)


def shown_path(path: Path) -> str:
    """A path as a reader would type it."""
    try:
        return str(Path(os.path.realpath(path)).relative_to(Path.cwd()))
    except ValueError:
        return str(path)
