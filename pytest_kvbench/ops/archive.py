"""Archive and restore groups; a group is removed only where an archive holds all of it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pytest_kvbench.errors import GuardError, MissingPrerequisiteError, StoreError, UsageError
from pytest_kvbench.files import (
    is_unconfirmed,
    scratch,
    sweep,
    try_lock,
    unfinished_folder,
    writing,
)
from pytest_kvbench.hints import command
from pytest_kvbench.store.archive import (
    CONTROLS,
    GROUP,
    Archive,
    Index,
    Member,
    passes,
    verify_archive,
    write_archive,
)
from pytest_kvbench.store.control_file import FILE, read_content
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.database import copy_database
from pytest_kvbench.store.origin import claims, confirm, mark
from pytest_kvbench.store.places import group_names, is_group
from pytest_kvbench.store.presence import at_work
from pytest_kvbench.store.registry import META, Registry
from pytest_kvbench.store.store import DATABASE, Store

SUFFIX = ".kvbench.tar.gz"
PREPARE_LOCK = ".prepare.lock"


@dataclass(frozen=True)
class Restored:
    """Where a group came to be, and what was there before: `new` is False if all of it was.

    `controls` joined those that are there; where nobody confirmed the archive, `left` did not.
    `claims` is what is to be confirmed: see `store.origin`.
    """

    folder: Path
    new: bool
    files: int
    controls: int
    left: int = 0
    claims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cleaned:
    """What became of a group: `archive` holds all of it, or `kept` says why it stays.

    `blocked` tells a group that stays although it is old enough.
    """

    group: str
    archive: Path | None = None
    bytes: int = 0
    kept: str = ""
    blocked: bool = False


# -- archive -------------------------------------------------------------------------------------


def archive_group(folder: Path, controls: Path, target: Path | None = None) -> tuple[Path, Index]:
    """Put a group and the shared controls it used into one file.

    Runs may go on meanwhile: the archive holds the group as of one moment.

    Args:
        folder: the group's folder.
        controls: the folder of shared controls; may be missing.
        target: a new file; by default beside the group, named after it and the time.

    Raises:
        MissingPrerequisiteError: no group is there.
        UsageError: `target` exists.
        StoreError: something cannot be read or written.
    """
    _need_group(folder)
    target = target or folder.with_name(f"{folder.name}-{_stamp()}{SUFFIX}")
    if target.exists():
        raise UsageError(f"{target}: is there already", "give another: --to FILE")
    used = {f"{CONTROLS}/{path}": file for path, file in _used(folder, controls).items()}
    with _snapshot(folder) as files:
        inside = {f"{GROUP}/{path}": file for path, file in files.items()}
        return target, write_archive(target, folder.name, inside | used)


def _need_group(folder: Path) -> None:
    if not is_group(folder):
        near = group_names(folder.parent)
        raise MissingPrerequisiteError(
            f"{folder}: there is no group", f"groups there: {', '.join(near) or 'none'}"
        )


@contextlib.contextmanager
def _snapshot(folder: Path) -> Iterator[dict[str, Path]]:
    """The files of a group by path inside it, the database as a copy that stands still."""
    with scratch() as room:
        copy = room / DATABASE
        copy_database(folder / DATABASE, copy)
        yield {**_files(folder), DATABASE: copy}


def _files(folder: Path) -> dict[str, Path]:
    """All that lasts: no locks, no unfinished files, no side files of the database, no links."""
    return {
        file.relative_to(folder).as_posix(): file
        for file in _walk(folder)
        if file.is_file() and not file.is_symlink() and not passes(file.relative_to(folder))
    }


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
        yield from (link for name in folders if (link := Path(parent, name)).is_symlink())


def _used(folder: Path, controls: Path) -> dict[str, Path]:
    """The files of the shared controls that hold an answer to one of the group's requests."""
    with Store(folder / DATABASE, reads=True) as store:
        asked = store.request_keys()
    names = Registry(controls).folders() if not controls.is_relative_to(folder) else []
    return {
        f"{name}/{file}": controls / name / file
        for name in names
        if not asked.isdisjoint(read_content(controls / name / FILE).answers)
        for file in (FILE, META)
        if (controls / name / file).is_file()
    }


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")


# -- restore -------------------------------------------------------------------------------------


def restore_group(path: Path, reports: Path, controls: Path, *, trust: bool = False) -> Restored:
    """Bring a group back: all of it or nothing; its controls join those that are there.

    Whoever does not trust the archive gets the group alone, marked: what it would start or ask is
    not done before it is confirmed. Controls are for all groups, so they stay in the archive.

    Args:
        path: an archive, believed in nothing.
        reports: the folder in which the group's folder is made.
        controls: the folder of shared controls.
        trust: what is in the archive may be used.

    Raises:
        GuardError: a group of that name is there, and is not the archived one; or a file would
            configure pytest.
        StoreError: the archive is damaged or hostile, or there is no room.
    """
    with Archive(path) as archive, _room(reports) as room:
        index = archive.index
        if not trust:
            _refuse_configuration(path, index)
        folder = reports / index.group
        there = folder.is_dir() and bool(_files(folder))
        if there and _lacking(folder, index):
            raise GuardError(
                f"{folder}: holds another state of the group than {path.name}; "
                "it is never overwritten",
                "restore beside it: --dir DIR, or move it away",
            )
        _need_space(path, index, reports)
        archive.extract(lambda member: room / member.path)
        names = Registry(room / CONTROLS).folders()
        if trust:
            _merge(room / CONTROLS, names, controls)
        if not there:
            _move(room / GROUP, folder, trust=trust)
        elif trust:
            confirm(folder)
    came = len(names) if trust else 0
    shown = tuple(claims(folder)) if is_unconfirmed(folder) else ()
    return Restored(folder, not there, len(index.below(GROUP)), came, len(names) - came, shown)


_CONFIGURES = frozenset({"pytest.ini", "pytest.toml", "pyproject.toml", "tox.ini", "setup.cfg"})
"""What pytest obeys where it is started, before it has loaded a plugin that could refuse."""


def _refuse_configuration(path: Path, index: Index) -> None:
    for name in index.below(GROUP):
        if PurePosixPath(name).name.lower() in _CONFIGURES:
            raise GuardError(
                f"{path}: holds {name}, which a pytest that is started there would obey; no run "
                "leaves such a file",
                "read it; where it is your own: kvbench restore ARCHIVE --trust",
            )


@contextlib.contextmanager
def _room(reports: Path) -> Iterator[Path]:
    """A hidden folder on the same disk, so that the group appears by one rename."""
    with writing(reports), contextlib.ExitStack() as stack:
        reports.mkdir(parents=True, exist_ok=True)
        sweep(reports)
        room = stack.enter_context(unfinished_folder(reports))
        keep = stack.pop_all()
    with keep:
        yield room


def _need_space(path: Path, index: Index, reports: Path) -> None:
    needed = sum(member.bytes for member in index.files)
    free = shutil.disk_usage(reports).free
    if needed > free:
        raise StoreError(
            f"{path}: declares {needed:,} bytes, {reports} has room for {free:,}",
            "free the disk, or restore elsewhere: --dir DIR",
        )


def _merge(source: Path, names: Sequence[str], controls: Path) -> None:
    """Add restored controls to those that are there."""
    for name in names:
        meta = _read_meta(source / name / META)
        with SharedControls(controls).take(name, meta) as entry:
            entry.add(list(read_content(source / name / FILE).answers.values()))


def _read_meta(path: Path) -> Mapping[str, object]:
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _move(source: Path, folder: Path, *, trust: bool) -> None:
    """Give a group its name; the mark is there before."""
    with writing(folder):
        source.mkdir(exist_ok=True)
        if not trust:
            mark(source)
        if folder.is_dir():  # nothing lasting is in it
            shutil.rmtree(folder)
        source.rename(folder)


# -- clean ---------------------------------------------------------------------------------------


def clean_group(folder: Path, archives: Path, min_age_s: float, *, dry_run: bool) -> Cleaned:
    """Remove a group that is old enough and that an archive verifiably holds.

    Args:
        folder: the group's folder.
        archives: where `GROUP-*.kvbench.tar.gz` are looked for.
        min_age_s: seconds since the last change of any of its files.
        dry_run: only say what would be done.

    Raises:
        MissingPrerequisiteError: no group is there.
        StoreError: the group cannot be read or removed.
    """
    _need_group(folder)
    sweep(folder.parent)
    age_s = time.time() - max(file.stat().st_mtime for file in _lived_in(folder))
    if age_s < min_age_s:
        return Cleaned(folder.name, kept=f"changed {age_s / 86400:.1f} days ago")
    links = [file for file in _walk(folder) if file.is_symlink()]
    if links:
        return Cleaned(
            folder.name, kept=f"{links[0]} is a link, and no archive holds it", blocked=True
        )
    busy = at_work(folder)
    with writing(folder), try_lock(folder / PREPARE_LOCK) as unused:
        if busy or not unused:
            return Cleaned(folder.name, kept="a run is at work on it", blocked=True)
        holder, why = _holder(folder, archives)
        if holder is None:
            return Cleaned(folder.name, kept=why, blocked=True)
        size = sum(file.stat().st_size for file in _walk(folder))
        if not dry_run:
            _remove(folder)
        return Cleaned(folder.name, holder, size)


def _remove(folder: Path) -> None:
    """Remove a folder: first one rename, so that a killed removal leaves no half of a group."""
    with unfinished_folder(folder.parent) as room:
        folder.rename(room / GROUP)


def _lived_in(folder: Path) -> list[Path]:
    """The files whose modification time shows that a group is in use; locks are left out."""
    wal = folder / f"{DATABASE}-wal"
    return [*_files(folder).values(), *([wal] if wal.exists() else [])]


def _holder(folder: Path, archives: Path) -> tuple[Path | None, str]:
    """An archive that holds all of the group, or the reason why none does."""
    why = f"no archive of it in {archives}; make one: {command('archive', folder)}"
    for path in sorted(archives.glob(f"{folder.name}-*{SUFFIX}"), reverse=True):
        try:
            index = verify_archive(path)
        except StoreError as error:
            why = error.what
            continue
        if index.group != folder.name:
            continue
        lacking = _lacking(folder, index)
        if not lacking:
            return path, ""
        why = f"{path} does not hold {lacking[0]} as it is now"
    return None, why


def _lacking(folder: Path, index: Index) -> list[str]:
    """The files of a group that an archive does not hold as they are now."""
    held = index.below(GROUP)
    with _snapshot(folder) as files:
        now = {path: Member.of(f"{GROUP}/{path}", file) for path, file in files.items()}
    return [path for path, member in now.items() if held.get(path) != member]
