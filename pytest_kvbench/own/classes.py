"""Classes of users: `./FILE.py:Class` or `MODULE:Class`, or a name for one.

Names come from a hook and from entry points. What a class is, and which files of the user's it was
made from, is read by a process that imports it, and remembered until one of these files or of the
libraries changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

from pytest_kvbench import installed
from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import cache_root, locked, replace_json

_SPEC = re.compile(r"(?P<where>[^:\0]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_UNASKED: list[Callable[[], object]] = []

State = dict[str, list[int]]
"""Of files: their size and the time of their last change."""


def ask_before(load: Callable[[], object]) -> None:
    """Have conftests loaded, which may bring names, before the first name is looked up."""
    _UNASKED[:] = [load]


def is_spec(name: str) -> bool:
    """Whether it is a class: `./FILE.py:Class` or `MODULE:Class`."""
    return _SPEC.fullmatch(name) is not None


def are_in(data: object) -> bool:
    """Whether plain data name a class, however deep."""
    if isinstance(data, Mapping):
        return any(map(are_in, [*data, *data.values()]))
    if isinstance(data, list | tuple):
        return any(map(are_in, data))
    return isinstance(data, str) and is_spec(data)


def parts(spec: str) -> tuple[str, str]:
    """The file or module of a class, and its name there."""
    where, _, name = spec.rpartition(":")
    return where, name


EntryT = TypeVar("EntryT")
"""What is wanted to know of a class of one kind: plain data."""


class Found(TypedDict, Generic[EntryT]):
    """What a process that imports a class says of it.

    `files` are the user's that it was made from, `versions` names installed packages that it needs
    beside those that all of its kind may depend on.
    """

    entry: EntryT
    files: list[str]
    versions: NotRequired[list[str]]


class Remembered(TypedDict, Generic[EntryT]):
    """The same, as a file remembers it: the sha256 of each file, the version of each package."""

    entry: EntryT
    files: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True)
class Read(Generic[EntryT]):
    """What was read of a class, the state of its files then, and the digest of all it is."""

    entry: EntryT
    state: State
    digest: str


@dataclass(frozen=True)
class Classes(Generic[EntryT]):
    """The classes of one kind that users bring.

    Attributes:
        kind: what they are, as messages call it.
        read: has a class imported by a process of its own.
        libraries: installed packages that any of them may depend on.
        brought: names that a conftest or a command line gave.
    """

    kind: str
    read: Callable[[str], Found[EntryT]]
    libraries: tuple[str, ...] = ()
    brought: dict[str, str] = field(default_factory=dict)
    _known: dict[str, Read[EntryT]] = field(default_factory=dict, repr=False)

    @property
    def plural(self) -> str:
        """Of the kind: as in the hook's name and in that of the group of entry points."""
        return {"policy": "policies"}.get(self.kind, f"{self.kind}s")

    def bring(self, named: Mapping[str, object], folder: Path | None = None) -> None:
        """Take names for classes: each a class as above, or the class or object itself.

        Args:
            named: by name.
            folder: from where relative files count; by default this process's.

        Raises:
            UsageError: a name is that of a class, or what it names is none.
        """
        for name, given in named.items():
            spec = _seen_from(folder, given) if isinstance(given, str) else _spec_of_object(given)
            if not isinstance(name, str) or is_spec(name) or not is_spec(spec):
                raise UsageError(
                    f"pytest_kvbench_{self.plural}: {name!r} is {given!r}.",
                    "Valid: a class by its name, as in {'mine': './mine.py:Mine'}.",
                )
            self.brought[name] = spec

    def named(self) -> dict[str, str]:
        """The names that were brought, and those of entry points, each with its class."""
        while _UNASKED:
            _UNASKED.pop()()
        points = entry_points(group=f"pytest_kvbench.{self.plural}")
        return {**{point.name: point.value for point in points}, **self.brought}

    def spec_of(self, name: str) -> str:
        """The class that a name stands for; the name itself where it stands for none."""
        return name if is_spec(name) else self.named().get(name, name)

    def entry(self, spec: str) -> EntryT:
        """What was read of a class.

        Raises:
            UsageError: there is none, or it cannot be imported.
        """
        return self._of(spec).entry

    def digest(self, spec: str) -> str:
        """The sha256 over the files of a class and the versions of the libraries below it.

        Raises:
            UsageError: there is none, or it cannot be imported.
        """
        return self._of(spec).digest

    def _of(self, spec: str) -> Read[EntryT]:
        place = f"{self._located(spec)}:{spec}"  # from another folder the same name is another file
        known = self._known.get(place)
        if known is None or known.state != _state(known.state):
            known = self._known[place] = self._remembered(spec, place)
        return known

    def _remembered(self, spec: str, place: str) -> Read[EntryT]:
        """From the file that remembers it, if no file of the class has changed; else read anew."""
        name = hashlib.sha256(place.encode()).hexdigest()[:16]
        file = cache_root() / self.plural / f"own-{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_suffix(".lock")):
            data: Remembered[EntryT] | None = _data(file)
            digests = {path: _sha256(path) for path in data["files"]} if data else {}
            if data is None or (data["files"], data["versions"]) != (
                digests,
                _versions(data["versions"]),
            ):
                found = self.read(spec)
                digests = {path: _sha256(path) for path in found["files"]}
                versions = _versions([*self.libraries, *found.get("versions", ())])
                data = {"entry": found["entry"], "files": digests, "versions": versions}
                replace_json(file, data)
        contents = sorted([Path(path).name, sha] for path, sha in digests.items())
        whole = json.dumps([contents, data["versions"], parts(spec)[1]])
        return Read(data["entry"], _state(digests), hashlib.sha256(whole.encode()).hexdigest())

    def _located(self, spec: str) -> Path:
        """The file of a class.

        Raises:
            UsageError: there is none.
        """
        where, _ = parts(spec)
        if where.endswith(".py"):
            if (file := Path(where).expanduser()).is_file():
                return file.resolve()
            raise UsageError(
                f"{self.kind} {spec}: there is no file {where}.", "Valid: a path from here."
            )
        try:
            found = _module(where.partition(".")[0])
        except (ImportError, ValueError):
            found = None
        if found is None or not (found.origin or found.submodule_search_locations):
            raise UsageError(
                f"{self.kind} {spec}: there is no module {where}.",
                "Valid: one that is installed or in this folder, or ./FILE.py:Class.",
            )
        return Path(found.origin or next(iter(found.submodule_search_locations or ())))


def _module(name: str) -> ModuleSpec | None:
    """A module of this folder, where a process that reads classes looks first; else any."""
    return PathFinder.find_spec(name, [str(Path.cwd())]) or importlib.util.find_spec(name)


def _seen_from(folder: Path | None, spec: str) -> str:
    """A class by its file, wherever one is; one by its module as it is."""
    where, name = parts(spec)
    if folder is None or not where.endswith(".py"):
        return spec
    return f"{(folder / Path(where).expanduser()).resolve()}:{name}"


def _spec_of_object(given: object) -> str:
    """Where a class, or an object with a name in its module, can be imported from; "" nowhere."""
    module = sys.modules.get(str(getattr(given, "__module__", "")))
    names = [name for name, one in vars(module).items() if one is given] if module else []
    file = getattr(module, "__file__", None)
    if not names or not file:
        return ""
    where = module.__name__ if module and "." in module.__name__ else file
    return f"{where}:{names[0]}"


def _data(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: installed.version_if_any(name) or "" for name in sorted({*names})}


def _sha256(path: str) -> str:
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _state(files: Iterable[str]) -> State:
    paths = [Path(path) for path in files]
    return {str(p): [p.stat().st_size, p.stat().st_mtime_ns] if p.is_file() else [] for p in paths}
