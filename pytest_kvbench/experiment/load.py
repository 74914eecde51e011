"""YAML + base merge + ${ENV} + overrides -> one frozen `Experiment`, or one per stage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from pydantic import (
    ValidationError,
)

from pytest_kvbench.errors import ExperimentError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.explain import explain, joined, origin_of, shown_path
from pytest_kvbench.experiment.roster import members, place_of
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.reading import brief, odd_value, parse_yaml, read_text
from pytest_kvbench.reading.strict_yaml import MAX_TEXT
from pytest_kvbench.records import FULL_CACHE

_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
PACKAGED = Path(__file__).with_name("packaged")
"""The bases that need no file of the user's: `extends: default` is default.yaml of it."""


@dataclass(frozen=True)
class Declared:
    """An experiment, and where each of its keys was set."""

    experiment: Experiment
    origins: Mapping[str, str]
    files: tuple[Path, ...] = ()
    stage: str = ""
    chain: str = ""
    """The name all stages of one sweep share; empty for an experiment without stages."""
    member: str = ""
    """Which of a roster it is: `smollm2-135m.0`; empty where there is none."""

    def refuse(self, key: str, problem: str, valid: str) -> NoReturn:
        """Raise the error for a key whose value only a later stage can judge."""
        raise ExperimentError(f"{origin_of(self.origins, key)}: {key}: {problem}", valid)


@dataclass(frozen=True)
class Override:
    """One dotted key that the command line sets; `source` is how the user gave it."""

    key: str
    value: Any
    source: str

    @classmethod
    def parse(cls, text: str, option: str = "--kvbench-set") -> Override:
        """The override of `--kvbench-set a.b=VALUE`, where VALUE is YAML.

        Args:
            text: as given.
            option: by which; errors name it.
        """
        source = f"{option} {text}"
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ExperimentError(f"{source}: is not KEY=VALUE", "valid: bins.per_bin=4")
        return cls(key.strip(), _parsed(value, source), source)


Lever = Callable[[EngineSettings], str]
"""A policy that an engine has: what `kv.policies: [auto]` stands for."""


@dataclass
class _Merged:
    """Values merged so far, and the source of each leaf."""

    lever: Lever
    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def add(self, values: Keys, source: str) -> None:
        if odd := odd_value(values, nul=False):
            key, problem = odd
            raise ExperimentError(
                f"{source}: {key}: {problem}", "valid: finite numbers, texts, lists and mappings"
            )
        self.values = _merge(self.values, values)
        self.origins.update(dict.fromkeys(_leaves(values), source))


def _unknown(_engine: EngineSettings) -> str:
    return FULL_CACHE


def load_experiment(
    file: Path | None = None,
    *,
    inline: Keys = MappingProxyType({}),
    overrides: Sequence[Override] = (),
    inline_source: str = "marker",
    lever: Lever = _unknown,
) -> Declared:
    """Read, merge and check an experiment without stages.

    Args:
        file: a YAML file; its `extends` names a base relative to itself, or `default`, which
            comes with the package; `${NAME}` and `${NAME:-default}` in it are variables of the
            environment.
        inline: the same keys, from a marker; they win over the file. Dotted keys are allowed.
        overrides: from the command line; they win over everything.
        inline_source: how errors name the place of `inline`.
        lever: says what the engine has, which this room does not know: see `pipeline.declared`.

    Raises:
        ExperimentError: with the file, the key, the value and what is valid.
    """
    declared = load_stages(
        file, inline=inline, overrides=overrides, inline_source=inline_source, lever=lever
    )
    if len(declared) > 1 or declared[0].stage:
        key = "matrix" if declared[0].member else "stages"
        raise ExperimentError(
            f"{file or inline_source}: {key}: this command takes one experiment",
            f"name one of its groups: {', '.join(d.experiment.group for d in declared)}",
        )
    return declared[0]


def load_stages(
    file: Path | None = None,
    *,
    inline: Keys = MappingProxyType({}),
    overrides: Sequence[Override] = (),
    inline_source: str = "marker",
    lever: Lever = _unknown,
) -> tuple[Declared, ...]:
    """Read, merge and check an experiment: one, or one per stage in order, for each of its roster.

    A stage is the experiment with its own keys on top, in the group `GROUP.STAGE`. Each draws its
    examples with the next seed, and leaves out the arms that broke in the stage before. Of a
    `matrix` every combination is an experiment with these values, in the group `GROUP@NAME`.

    Args and errors: as `load_experiment`.
    """
    merged = _Merged(lever)
    if file is not None:
        _add_file(merged, file, chain=())
    if inline:
        merged.add(_nest(inline, inline_source), inline_source)
    for override in overrides:
        merged.add(_nest({override.key: override.value}, override.source), override.source)
    stages = merged.values.pop("stages", None)
    matrix = merged.values.pop("matrix", None)
    source = str(file or inline_source)
    if matrix is None:
        return tuple(_each_stage(merged.values, merged, stages, source))
    base = _checked(merged.values, merged, source).experiment
    return tuple(
        replace(declared, member=one.name)
        for one in members(matrix, origin_of(merged.origins, "matrix", source))
        for values in [{**_nest(one.values, source), "group": f"{base.group}@{one.name}"}]
        for declared in _each_stage(
            _merge(merged.values, values), merged, stages, source, one.values
        )
    )


def _each_stage(
    values: Keys,
    merged: _Merged,
    stages: object,
    source: str,
    listed: Collection[str] = (),
) -> Iterator[Declared]:
    if stages is None:
        yield _checked(values, merged, source, listed=listed)
    else:
        yield from _staged(values, merged, stages, source, listed)


def _checked(
    values: Keys,
    merged: _Merged,
    source: str,
    at: str = "",
    listed: Collection[str] = (),
) -> Declared:
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as invalid:
        place = at or place_of(invalid, listed)
        raise explain(invalid, merged.origins, source, place) from None
    named = _with_lever(experiment, merged.lever)
    return Declared(named, merged.origins, tuple(merged.files))


def _with_lever(experiment: Experiment, lever: Lever) -> Experiment:
    """What is declared is what is asked, stored and told: no `auto` outlives the reading."""
    if experiment.kv.policies != ("auto",):
        return experiment
    kv = experiment.kv.model_copy(update={"policies": (lever(experiment.engine),)})
    return experiment.model_copy(update={"kv": kv})


def _staged(
    own: Keys,
    merged: _Merged,
    stages: object,
    source: str,
    listed: Collection[str],
) -> Iterator[Declared]:
    valid = "valid: {breadth: {bins: {per_bin: 5}}, depth: {bins: {per_bin: 50}}}"
    where = origin_of(merged.origins, "stages", source)
    if not isinstance(stages, Mapping) or not stages:
        raise ExperimentError(f"{where}: stages: {brief(stages)} names no stage", valid)
    base = _checked(own, merged, source, listed=listed).experiment
    before = None
    for position, (name, stage) in enumerate(stages.items()):
        if not isinstance(stage, Mapping) or not _STAGE.fullmatch(str(name)):
            raise ExperimentError(f"{where}: stages.{name}: is no stage with keys", valid)
        group = f"{base.group}.{name}"
        seed = base.sampling.seed + position
        given = {"group": group, "after": before, "sampling": {"seed": seed}}
        values = _merge(_merge(own, given), stage)
        yield replace(
            _checked(values, merged, source, f"stages.{name}."), stage=str(name), chain=base.group
        )
        before = group


def _add_file(merged: _Merged, file: Path, chain: tuple[Path, ...]) -> None:
    data = dict(_read_yaml(file))
    place = Path(os.path.realpath(file))  # `resolve` raises at links that lead in a circle
    if place in chain:
        raise ExperimentError(
            f"{shown_path(file)}: extends: the files extend each other in a circle",
            " -> ".join(shown_path(f) for f in (*chain, file)),
        )
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise ExperimentError(
                f"{shown_path(file)}: extends: {brief(base)} is not a file name",
                "valid: extends: default, or a file as base.yaml",
            )
        packaged = PACKAGED / f"{base}.yaml"
        if base.isidentifier() and packaged.is_file():
            merged.add(_read_yaml(packaged), f"extends: {base}")  # no file of the project's
        else:
            _add_file(merged, file.parent / base, (*chain, place))
    merged.add(data, shown_path(file))
    merged.files.append(file)


def _read_yaml(file: Path) -> Keys:
    data = _parsed(_text(file), shown_path(file))
    if not isinstance(data, Mapping):
        raise ExperimentError(
            f"{shown_path(file)}: must hold keys, got {'nothing' if data is None else brief(data)}",
            f"valid keys: {', '.join(sorted([*Experiment.model_fields, 'extends']))}",
        )
    expanded: Keys = _expand(data, shown_path(file), "")
    return expanded


def _text(file: Path) -> str:
    try:
        return read_text(file, shown_path(file), limit=MAX_TEXT)
    except UsageError as error:
        if not isinstance(error.__cause__, OSError):
            raise ExperimentError(error.what, error.hint) from None
        near = sorted(p.name for p in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        raise ExperimentError(
            error.what,
            f"experiments there: {', '.join(near)}"
            if near
            else f"no YAML files in {shown_path(file.parent)}",
        ) from None


def _parsed(text: str, source: str) -> Any:
    try:
        return parse_yaml(text, source)
    except UsageError as error:
        raise ExperimentError(error.what, error.hint) from None


def _expand(value: Any, source: str, key: str) -> Any:
    """`${NAME}` and `${NAME:-default}` in every string; a string that is one reference is YAML."""
    if isinstance(value, Mapping):
        return {k: _expand(v, source, joined(key, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, source, key) for v in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = os.environ.get(name) or default
        if found is None:
            raise ExperimentError(
                f"{source}: {key}: {value!r} needs the environment variable {name}, not set",
                f"set {name}, or write ${{{name}:-DEFAULT}}",
            )
        return found

    expanded = _ENV.sub(look_up, value)
    return _parsed(expanded, f"{source}: {key}: {value}") if _ENV.fullmatch(value) else expanded


def _nest(values: Keys, source: str) -> dict[str, object]:
    """Dotted keys become nested ones."""
    nested: dict[str, object] = {}
    for dotted, value in values.items():
        *path, last = dotted.split(".")
        place = nested
        for part in path:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ExperimentError(f"{source}: {dotted}: {part} is a value, not a section", "")
            place = inner
        place[last] = value
    return nested


def _merge(base: Keys, over: Keys) -> dict[str, object]:
    """Sections merge key by key; everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]  # both are mappings
    return merged


def _leaves(values: Keys, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        dotted = joined(prefix, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, dotted)
        yield dotted
