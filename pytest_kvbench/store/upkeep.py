"""Looks after shared controls: what is in order, what is not, and how it is put right.

Nothing sound is ever removed by a repair: it drops what nobody can use (damaged lines, entries
without a file, folders without an answer, claims of the dead) and registers what lies there.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_kvbench import hints
from pytest_kvbench.files import try_lock, writing
from pytest_kvbench.store.control_file import FILE, Content, ControlFile, read_content
from pytest_kvbench.store.registry import LOCK, META, Registered, Registry, model_of

Condition = Literal["sound", "in use", "abandoned", "missing", "altered", "orphan", "damaged"]

DAMAGED: frozenset[Condition] = frozenset({"missing", "altered", "damaged"})
"""What `verify` fails on: something that was there is not, or is not what it was."""


@dataclass(frozen=True)
class Finding:
    """One control, or the registry itself, and the condition it is in.

    `answers` are the sound ones; `unused_s` is the time in seconds since a run last held it.
    """

    name: str
    condition: Condition
    detail: str = ""
    model: str = ""
    answers: int = 0
    bytes: int = 0
    unused_s: float = 0.0


def examine(root: Path) -> list[Finding]:
    """Every control of a folder, verified line by line; changes nothing.

    Raises:
        StoreError: a file is there and cannot be read.
    """
    registry = Registry(root)
    findings: list[Finding] = []
    entries: dict[str, Registered] = {}
    try:
        entries = registry.read()
    except FileNotFoundError:
        pass  # each folder there is an orphan
    except ValueError as error:
        entries = {name: registry.describe(name) for name in registry.folders()}
        findings = [Finding(registry.path.name, "damaged", f"{error}; prune makes it again")]
    for name in sorted({*entries, *registry.folders()}):
        findings.append(_finding(root, name, entries.get(name)))
    return findings


def orphans(root: Path) -> list[str]:
    """Names of folders without an entry that no run holds: their run died before it made one."""
    registry = Registry(root)
    entries = registry.entries()
    return [name for name in registry.folders() if name not in entries and not _held(root / name)]


def repair(root: Path, unused_s: float | None = None) -> list[str]:
    """Put right what `examine` finds; what was done, a line each.

    Args:
        root: the folder of shared controls.
        unused_s: also remove the controls, sound or not, that no run held for so many seconds.

    Raises:
        StoreError: the folder cannot be written.
    """
    registry = Registry(root)
    done = []
    for finding in examine(root):
        stale = unused_s is not None and finding.unused_s >= unused_s
        if finding.condition == "in use" or (finding.condition == "sound" and not stale):
            continue
        if finding.name == registry.path.name:
            registry.drop(())  # any change makes it again
            done.append(f"{finding.name}: made again")
        else:
            done.append(f"{finding.name}: {_put_right(registry, finding, remove=stale)}")
    return done


def _finding(root: Path, name: str, entry: Registered | None) -> Finding:
    content = read_content(root / name / FILE)
    condition, detail = _condition(root / name, entry, content)
    return Finding(
        name,
        condition,
        detail,
        entry.model if entry else model_of(root / name),
        len(content.answers),
        content.bytes,
        _unused_s(root / name),
    )


def _condition(folder: Path, entry: Registered | None, content: Content) -> tuple[Condition, str]:
    if folder.is_dir() and _held(folder):
        return "in use", "a run holds it now"
    if entry is None:
        return "orphan", "a folder without an entry"
    if not (folder / FILE).exists() and entry.bytes:
        return (
            "missing",
            f"{hints.count(entry.answers, 'answer')} {hints.were(entry.answers)} there",
        )
    if content.damaged:
        return (
            "altered",
            f"{hints.count(content.damaged, 'damaged line')}, "
            f"{hints.count(entry.answers, 'answer')} {hints.were(entry.answers)} there",
        )
    if entry.state == "pending":
        return "abandoned", "its run ended early; the next one takes it over"
    if content.sha256 != entry.sha256:
        return (
            "altered",
            f"not the bytes that were registered, {hints.count(entry.answers, 'answer')} "
            f"{hints.were(entry.answers)} there",
        )
    return "sound", ""


def _put_right(registry: Registry, finding: Finding, *, remove: bool) -> str:
    folder = registry.root / finding.name
    if not folder.is_dir():
        registry.drop([finding.name])
        return "entry without a folder dropped"
    with writing(folder), try_lock(folder / LOCK) as taken:
        if not taken:
            return "left alone, a run holds it now"
        if remove or not finding.answers:
            registry.drop([finding.name])
            shutil.rmtree(folder)
            return f"removed, {hints.count(finding.answers, 'answer')}"
        file = ControlFile(folder / FILE)
        kept = len(file.answers)
        registry.put(
            finding.name,
            Registered("completed", finding.model, kept, file.bytes, file.sha256),
        )
        return f"put right, {kept} sound answers kept"


def _held(folder: Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    try:
        with try_lock(folder / LOCK) as taken:
            return not taken
    except OSError:
        return False  # on a read-only disk nobody holds anything


def _unused_s(folder: Path) -> float:
    try:
        return max(0.0, time.time() - (folder / META).stat().st_mtime)
    except FileNotFoundError:
        return 0.0
