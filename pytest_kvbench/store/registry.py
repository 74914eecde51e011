"""`control_registry.json`: which shared controls there are, and what their files must look like.

Every change is one read, merge and replace under a lock, so that processes never lose each
other's entries. The answers are in the controls' own files: a registry that is damaged is made
again from them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from filelock import FileLock

from pytest_kvbench import hints
from pytest_kvbench.files import replace_json, writing
from pytest_kvbench.records import to_json
from pytest_kvbench.store.control_file import FILE, read_content

REGISTRY = "control_registry.json"
META = "meta.json"
LOCK = "lock"

State = Literal["pending", "completed"]


class RegisteredRow(TypedDict):
    """A `Registered` in the registry's file."""

    state: State
    model: str
    answers: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Registered:
    """One entry: whether it is being made, and its file's answers, size and sha256."""

    state: State
    model: str
    answers: int
    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, data: RegisteredRow) -> Registered:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: it is no entry.
        """
        try:
            entry = cls(**data)
            sizes_are_numbers = entry.answers >= 0 and entry.bytes >= 0
        except TypeError:
            raise ValueError("an entry is not whole") from None
        if not sizes_are_numbers or entry.state not in ("pending", "completed"):
            raise ValueError("an entry makes no sense")
        return entry


class Registry:
    """The registry of one folder of shared controls; the file lies beside the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root.parent / REGISTRY

    def entries(self) -> dict[str, Registered]:
        """The entries by `<control key>/<task-bin>`.

        A damaged file is made again from the controls; the process that does it warns once.

        Raises:
            StoreError: it is damaged and cannot be written.
        """
        try:
            return self.read()
        except FileNotFoundError:
            return {}
        except ValueError:
            return self._change({}, ())

    def read(self) -> dict[str, Registered]:
        """The entries as the file has them.

        Raises:
            FileNotFoundError: there is no registry.
            ValueError: it is damaged.
        """
        data = json.loads(self.path.read_bytes())
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        return {name: Registered.from_json(entry) for name, entry in data.items()}

    def put(self, name: str, entry: Registered) -> None:
        """Add or replace one entry.

        Raises:
            StoreError: the file cannot be written.
        """
        self._change({name: entry}, ())

    def drop(self, names: Iterable[str]) -> None:
        """Remove entries; names that are not there do no harm."""
        self._change({}, names)

    def _change(
        self, changed: Mapping[str, Registered], dropped: Iterable[str]
    ) -> dict[str, Registered]:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                entries = {**self._sound(), **changed}
                for name in dropped:
                    entries.pop(name, None)
                replace_json(self.path, {name: to_json(e) for name, e in entries.items()})
        return entries

    def _sound(self) -> dict[str, Registered]:
        try:
            return self.read()
        except FileNotFoundError:
            return {}
        except ValueError as error:
            found = {name: self.describe(name) for name in self.folders()}
            warnings.warn(
                f"{self.path}: is damaged ({error}); made again from "
                f"{hints.count(len(found), 'control')}",
                stacklevel=2,
            )
            return found

    def folders(self) -> list[str]:
        """The names of all controls that have a folder."""
        return sorted(
            folder.relative_to(self.root).as_posix()
            for folder in self.root.glob("*/*")
            if folder.is_dir()
        )

    def describe(self, name: str) -> Registered:
        """The entry of a control, made from its files as they are."""
        content = read_content(self.root / name / FILE)
        return Registered(
            "completed",
            model_of(self.root / name),
            len(content.answers),
            content.bytes,
            content.sha256,
        )


def model_of(folder: Path) -> str:
    """The model whose control lies there; empty where `meta.json` does not say."""
    try:
        return str(json.loads((folder / META).read_bytes())["arm"]["model"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""
