"""Shared controls: what the full cache answered, kept beside pytest's cache for every group.

    <root>/<control key>/<task-bin>/control.jsonl    one answer a line, see control_file
    <root>/<control key>/<task-bin>/meta.json        what the control is, for people
    <root>/../control_registry.json                  entries, sizes and sha256, see registry

One process at a time holds an entry; the others wait and then read. The lock is the operating
system's, so a dead owner's claim frees itself, and the next process takes it over. Nothing is
trusted unverified: what is missing or altered is warned of in one line, and asked again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock, FileLock

from pytest_kvbench import hints
from pytest_kvbench.files import replace_json, writing
from pytest_kvbench.records import Answer, Arm, digest, to_json
from pytest_kvbench.store.control_file import FILE, Content, ControlFile
from pytest_kvbench.store.registry import LOCK, META, Registered, Registry, State, model_of

__all__ = ["ControlEntry", "SharedControls", "control_key"]


_MOST_WAITING, _LONGEST_S = 32, 1.0
"""Answers and seconds that an entry may keep to itself; the group's database has them by then."""


def control_key(arm: Arm) -> str:
    """24 hex digits: the hash of all that a control depends on but the example.

    That is engine, model, sampling and template.
    """
    return digest([arm.content_id])[:24]


class ControlEntry:
    """One held entry: the answers it has, and a place to add more."""

    def __init__(self, name: str, registry: Registry) -> None:
        self._name = name
        self._registry = registry
        self._model = model_of(registry.root / name)
        registered = registry.entries().get(name)
        sha256 = registered.sha256 if registered and registered.state == "completed" else ""
        self._file = ControlFile(registry.root / name / FILE, sha256)
        problem = _problem(registered, self._file.content)
        if problem:
            warnings.warn(f"shared control {name}: {problem}", stacklevel=2)
        self._registered = registered
        self._waiting: dict[str, Answer] = {}
        self._written = 0.0
        if registered is None or registered.state == "pending" or problem:
            self._register("pending")

    @property
    def answers(self) -> Mapping[str, Answer]:
        """The answers of the entry, by the key of their request."""
        return self._file.answers

    def add(self, answers: Sequence[Answer]) -> None:
        """Append answers that are not there yet.

        Raises:
            StoreError: they cannot be written.
        """
        new = (a for a in answers if a.key not in self.answers and a.key not in self._waiting)
        self._waiting |= {answer.key: answer for answer in new}
        if len(self._waiting) >= _MOST_WAITING or time.monotonic() > self._written + _LONGEST_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits: a fast server's answers go in together.

        Raises:
            StoreError: it cannot be written.
        """
        if self._waiting:
            if self._registered is None or self._registered.state == "completed":
                self._register("pending")
            self._file.add(self._waiting.values())
            self._waiting = {}
        self._written = time.monotonic()

    def complete(self) -> None:
        """Register the entry as completed; one that did not change is left as it is."""
        if self._registered is None or self._registered.state == "pending":
            self._register("completed")

    def _register(self, state: State) -> None:
        file = self._file
        entry = Registered(state, self._model, len(file.answers), file.bytes, file.sha256)
        self._registry.put(self._name, entry)
        self._registered = entry


class SharedControls:
    """The folder of shared controls, an entry for each control and bin of a task."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._registry = Registry(root)

    @asynccontextmanager
    async def hold(self, arm: Arm, task_bin: str) -> AsyncIterator[ControlEntry]:
        """The entry of a control and a task's bin, held until the block ends.

        Raises:
            StoreError: the folder cannot be written.
        """
        name = f"{control_key(arm)}/{task_bin}"
        meta = {"arm": arm.to_json(), "task_bin": task_bin}
        self._make(name)
        # The wait may be as long as another process's run: it polls, and can be cancelled.
        async with AsyncFileLock(self._lock(name), thread_local=False, run_in_executor=False):
            with self._kept(name, meta) as entry:
                yield entry

    @contextlib.contextmanager
    def take(self, name: str, meta: Mapping[str, object]) -> Iterator[ControlEntry]:
        """`hold` for a program that may block, by the entry's name.

        Raises:
            StoreError: the folder cannot be written.
        """
        self._make(name)
        with FileLock(self._lock(name)), self._kept(name, meta) as entry:
            yield entry

    @contextlib.contextmanager
    def _kept(self, name: str, meta: Mapping[str, object]) -> Iterator[ControlEntry]:
        """An entry that is written however the block ends, and complete where it ends well."""
        entry = self._entry(name, meta)
        try:
            yield entry
        finally:
            entry.flush()
        entry.complete()

    def registry(self) -> dict[str, object]:
        """`Registered` as JSON by `<control key>/<task-bin>`."""
        return {name: to_json(entry) for name, entry in self._registry.entries().items()}

    def _make(self, name: str) -> None:
        with writing(self.root / name):
            (self.root / name).mkdir(parents=True, exist_ok=True)
            self._lock(name).touch()

    def _lock(self, name: str) -> Path:
        return self.root / name / LOCK

    def _entry(self, name: str, meta: Mapping[str, object]) -> ControlEntry:
        path = self.root / name / META
        if _read_json(path) != meta:
            replace_json(path, meta)
        with writing(path):
            os.utime(path)  # when the control was last used
        return ControlEntry(name, self._registry)


def _problem(registered: Registered | None, content: Content) -> str:
    """What is wrong with a file, in one line; empty where it can be trusted.

    A torn last line in an entry that was being made is a death in mid-write and no surprise.
    """
    found = len(content.answers)
    if registered is None:
        if found:
            return f"was not in the registry; its {found} sound answers are kept"
        return "its file was damaged" if content.damaged else ""
    if not content.bytes and registered.bytes:
        return f"its file is gone; {hints.count(registered.answers, 'answer')} to be made again"
    altered = content.damaged or (
        registered.state == "completed"
        and content.sha256 != registered.sha256
        and registered.bytes > 0
    )
    if altered:
        return (
            f"its file was altered; {found} of {registered.answers} answers are sound, "
            "the others are made again"
        )
    return ""


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
