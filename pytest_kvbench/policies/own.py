"""Policies of users: a class of theirs, `./FILE.py:Class` or `MODULE:Class`, or a name for one.

Names come from the hook `pytest_kvbench_policies` and from entry points. What a class is, and which
files of the user's it was made from, is read by a process that imports it, and remembered until one
of these files or of the libraries changes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import cache_root, locked, replace_json
from pytest_kvbench.policies.reader import read

GROUP = "pytest_kvbench.policies"
"""Of entry points: a name, and a class `MODULE:Class`."""

LIBRARIES = ("kvpress", "torch", "transformers")

_SPEC = re.compile(r"(?P<where>[^:\0]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_BROUGHT: dict[str, str] = {}

State = dict[str, list[int]]
"""Of files: their size and the time of their last change."""


@dataclass(frozen=True)
class Class:
    """What was read of a class, the state of its files then, and the digest of all it is."""

    entry: Mapping[str, Any]
    state: State
    digest: str


_READ: dict[str, Class] = {}


def bring(named: Mapping[str, str]) -> None:
    """Take names for classes of users, as a conftest or a server's command line gives them.

    Raises:
        UsageError: a name is that of a class, or what it names is none.
    """
    for name, spec in named.items():
        if not isinstance(spec, str) or not is_spec(spec) or is_spec(name):
            raise UsageError(
                f"pytest_kvbench_policies: {name!r} is {spec!r}.",
                "Valid: a class by its name, as in {'mine': './mypress.py:MyPress'}.",
            )
    _BROUGHT.update(named)


def named() -> dict[str, str]:
    """The names that were brought, and those of entry points, each with its class."""
    return {**{e.name: e.value for e in importlib.metadata.entry_points(group=GROUP)}, **_BROUGHT}


def spec_of(name: str) -> str:
    """The class that a name stands for; the name itself where it stands for none."""
    return name if is_spec(name) else named().get(name, name)


def is_spec(name: str) -> bool:
    """Whether it is a class: `./FILE.py:Class` or `MODULE:Class`."""
    return _SPEC.fullmatch(name) is not None


def parts(spec: str) -> tuple[str, str]:
    """The file or module of a class, and its name there."""
    where, _, name = spec.rpartition(":")
    return where, name


def entry(spec: str) -> Mapping[str, Any]:
    """What was read of a class.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    return _class(spec).entry


def digest(spec: str) -> str:
    """The sha256 over the files of a class and the versions of the libraries below it.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    return _class(spec).digest


def _class(spec: str) -> Class:
    place = f"{_located(spec)}:{spec}"  # from another folder the same name is another file
    known = _READ.get(place)
    if known is None or known.state != _state(known.state):
        known = _READ[place] = _remembered(spec, place)
    return known


def _remembered(spec: str, place: str) -> Class:
    """From the file that remembers it, if no file of the class has changed; else read anew."""
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    file = cache_root() / "policies" / f"own-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_suffix(".lock")):
        data = _data(file)
        digests = {path: _sha256(path) for path in data["files"]} if data else {}
        if data is None or data["files"] != digests or data["versions"] != _versions():
            found = read([spec])
            digests = {path: _sha256(path) for path in found["files"]}
            data = {"entry": found["entry"], "files": digests, "versions": _versions()}
            replace_json(file, data)
    contents = sorted([Path(path).name, sha] for path, sha in digests.items())
    whole = json.dumps([contents, data["versions"], parts(spec)[1]])
    return Class(data["entry"], _state(digests), hashlib.sha256(whole.encode()).hexdigest())


def _located(spec: str) -> Path:
    """The file of a class.

    Raises:
        UsageError: there is none.
    """
    where, _ = parts(spec)
    if where.endswith(".py"):
        if (file := Path(where).expanduser()).is_file():
            return file.resolve()
        raise UsageError(f"policy {spec}: there is no file {where}.", "Valid: a path from here.")
    try:
        found = importlib.util.find_spec(where.partition(".")[0])
    except (ImportError, ValueError):
        found = None
    if found is None or not (found.origin or found.submodule_search_locations):
        raise UsageError(
            f"policy {spec}: there is no module {where}.",
            "Valid: one that is installed or in this folder, or ./FILE.py:Class.",
        )
    return Path(found.origin or next(iter(found.submodule_search_locations or ())))


def _data(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _sha256(path: str) -> str:
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _state(files: Mapping[str, Any]) -> State:
    paths = [Path(path) for path in files]
    return {str(p): [p.stat().st_size, p.stat().st_mtime_ns] if p.is_file() else [] for p in paths}
