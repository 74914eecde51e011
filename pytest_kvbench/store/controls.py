"""Shared controls: what the full cache answered, kept beside pytest's cache for every group.

    <root>/<control key>/<task-bin>/control.jsonl    append-only, one answer a line
    <root>/<control key>/<task-bin>/meta.json        what the control is, for people
    <root>/../control_registry.json                  entries, sizes and sha256

One process at a time holds an entry; the others wait and then read. The lock is the operating
system's, so a dead owner's claim frees itself. A line is trusted only if it is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock, FileLock

from pytest_kvbench.files import replace_json
from pytest_kvbench.records import Answer, Arm, digest, to_json

REGISTRY = "control_registry.json"


def control_key(arm: Arm) -> str:
    """What a control depends on besides the example: engine, model, sampling and template."""
    return digest([arm.content_id])[:24]


class ControlEntry:
    """One held entry: the answers it has, and a place to add more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "control.jsonl"
        self.answers: Mapping[str, Answer] = _read(self._file)

    def add(self, answers: Sequence[Answer]) -> None:
        """Append answers that are not there yet, whole lines, at once."""
        lines = [
            json.dumps(to_json(a), ensure_ascii=False, sort_keys=True) + "\n"
            for a in answers
            if a.key not in self.answers
        ]
        if not lines:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        torn = self._file.exists() and not self._file.read_bytes().endswith(b"\n")
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + "".join(lines))
        self.answers = {**self.answers, **{a.key: a for a in answers}}


class SharedControls:
    """The folder of shared controls."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @asynccontextmanager
    async def hold(self, arm: Arm, task_bin: str) -> AsyncIterator[ControlEntry]:
        """The entry of a control and a task's bin, held until the block ends."""
        name = f"{control_key(arm)}/{task_bin}"
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        # The wait may be as long as another process's run: it polls, and can be cancelled.
        async with AsyncFileLock(folder / "lock", thread_local=False, run_in_executor=False):
            replace_json(folder / "meta.json", {"arm": to_json(arm), "task_bin": task_bin})
            self._register(name, folder, "pending")
            entry = ControlEntry(folder)
            yield entry
            self._register(name, folder, "completed")

    def registry(self) -> dict[str, Any]:
        """The entries: state, answers, bytes and sha256 by `<control key>/<task-bin>`."""
        try:
            registry: dict[str, Any] = json.loads(self._registry.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return registry

    @property
    def _registry(self) -> Path:
        return self.root.parent / REGISTRY

    def _register(self, name: str, folder: Path, state: str) -> None:
        file = folder / "control.jsonl"
        content = file.read_bytes() if file.exists() else b""
        entry = {
            "state": state,
            "answers": content.count(b"\n"),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        with FileLock(self._registry.with_suffix(".lock")):
            replace_json(self._registry, {**self.registry(), name: entry})


def _read(file: Path) -> dict[str, Answer]:
    answers = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            answer = Answer.from_json(json.loads(line))
        except (ValueError, TypeError, KeyError):
            continue  # torn by a death in mid-write: its request is asked again
        answers[answer.key] = answer
    return answers
