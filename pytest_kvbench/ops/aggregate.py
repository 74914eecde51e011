"""All groups as one Parquet data set: folders `answers`, `runs` and `cells`, a file per group each.

    pandas.read_parquet("reports/_aggregate/cells")
    SELECT * FROM read_parquet('reports/_aggregate/cells/*.parquet')      -- DuckDB

Incremental: a group whose database is as it was (size and time of its files) is not read again. A
group that is gone stays in the data set: what was learnt from it is not forgotten. All copies of a
group are one, see `lineages`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from pytest_kvbench.errors import MissingPrerequisiteError, StoreError
from pytest_kvbench.experiment.snapshot import ALONE
from pytest_kvbench.files import locked, replace_json, scratch, sweep, writing
from pytest_kvbench.ops import lineages
from pytest_kvbench.ops.archive import SUFFIX
from pytest_kvbench.ops.columns import COLUMNS
from pytest_kvbench.ops.rows import read_group
from pytest_kvbench.store.archive import GROUP, Archive
from pytest_kvbench.store.places import group_folders
from pytest_kvbench.store.store import DATABASE

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "_aggregate"
"""Below the reports; no group can have a name that begins with an underscore."""

STATE = ".state.json"
"""Hidden: `datasets` takes a folder with a state.json for one of its own."""
_STATE_ONCE = "state.json"
SCHEMA = 5
_ADOPTED = 4
_OLDER: Mapping[str, tuple[Any, int | bool]] = {
    "self_consistency": ("Int64", ALONE),
    "elected": ("boolean", True),
}
"""Columns that the file of a gone group may lack: their type with gaps, and what fills them."""

WORTH_A_PROCESS = 8
"""New groups from which on a second core helps: a process takes a second to start."""


@dataclass(frozen=True)
class Source:
    """A group's folder, or an archive of a group that has no folder here."""

    path: Path

    @property
    def stamp(self) -> list[list[int]]:
        """Sizes and modification times of its files: as long as they stay, so does the content."""
        wal = Path(f"{self.path / DATABASE}-wal")
        files = [self.path] if self.path.is_file() else [self.path / DATABASE, wal]
        found = [file.stat() for file in files if file.exists()]
        return [[s.st_size, s.st_mtime_ns] for s in found if s.st_size]

    @property
    def name(self) -> str:
        """A readable and unique name: the group's, and a hash of its path."""
        place = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:8]
        return f"{self.path.name.removesuffix(SUFFIX)}-{place}"


class _State(TypedDict):
    """A source as it was read: size and time of its files, what is wrong with it, what it held.

    `first`: the id of its first run, and `group`: its own name, which all copies of a group have in
    common.
    """

    stamp: list[list[int]]
    problem: str
    rows: int
    runs: int
    first: str
    group: NotRequired[str]


@dataclass(frozen=True)
class Aggregated:
    """What an aggregation did; `skipped` says why by source, `rows` counts all answers."""

    folder: Path
    read: tuple[str, ...]
    unchanged: int
    skipped: Mapping[str, str]
    gone: tuple[str, ...]
    rows: int


def aggregate(reports: Sequence[Path], target: Path) -> Aggregated:
    """Bring the data set up to date.

    Args:
        reports: folders that hold groups, archives of groups, or both.
        target: the data set's folder; made where it is missing.

    Raises:
        StoreError: the data set cannot be written. A group that cannot be read is only named.
    """
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    sweep(target, below=True)
    with locked(target / ".lock"):
        with contextlib.suppress(FileNotFoundError):
            (target / _STATE_ONCE).rename(target / STATE)
        states, total = _read_states(target)
        sources = {str(s.path.resolve()): s for folder in reports for s in _sources(folder)}
        stamps = {place: source.stamp for place, source in sources.items()}
        fresh = {
            place: source
            for place, source in sources.items()
            if place not in states or not _is_as_read(states[place], stamps[place])
        }
        before = _groups(states)
        for place, held in _gather(fresh, target):
            states[place] = {**held, "stamp": stamps[place]}
        if fresh or total is None:
            total = _merged(target, states, before, fresh)
            data = {"schema": SCHEMA, "answers": total, "sources": states}
            replace_json(target / STATE, data)
    return Aggregated(
        target,
        tuple(str(s.path) for p, s in fresh.items() if not states[p]["problem"]),
        len(sources) - len(fresh),
        {str(s.path): states[p]["problem"] for p, s in sources.items() if states[p]["problem"]},
        tuple(sorted(states.keys() - sources.keys())),
        total,
    )


def _is_as_read(held: _State, stamp: list[list[int]]) -> bool:
    return held["stamp"] == stamp and "group" in held  # an older version did not note it


_Groups = Mapping[str, list[str]]
"""The sources of each group, the fullest first, by the name that its files have."""


def _groups(states: Mapping[str, _State]) -> _Groups:
    found: dict[str, list[str]] = {}
    for place, held in states.items():
        if held["first"]:
            found.setdefault(_lineage(place, held), []).append(place)
    return {
        name: sorted(places, key=lambda p: (-states[p]["runs"], -states[p]["rows"], p))
        for name, places in found.items()
    }


def _lineage(place: str, held: _State) -> str:
    """A readable name of all copies of a group, whatever their folders are called."""
    group = held.get("group") or _archived(Path(place))
    return f"{group}-{hashlib.sha256(held['first'].encode()).hexdigest()[:8]}"


def _merged(
    target: Path, states: Mapping[str, _State], before: _Groups, fresh: Mapping[str, Source]
) -> int:
    """Bring the groups of fresh sources up to date; returns how many answers there are."""
    now = _groups(states)
    for name, places in now.items():
        is_there = (target / "answers" / f"{name}.parquet").exists()
        if before.get(name) != places or fresh.keys() & set(places) or not is_there:
            lineages.merge(target, name, [Source(Path(place)).name for place in places])
    lineages.forget(target, before.keys() - now.keys())
    return lineages.answers(target)


def frame(target: Path, table: str, without: Collection[str] = ()) -> pd.DataFrame:
    """One of the data set's tables, without some of its columns.

    Raises:
        MissingPrerequisiteError: nothing was aggregated there.
    """
    import pandas as pd

    if not any((target / table).glob("*.parquet")):
        raise MissingPrerequisiteError(
            f"{target}: holds no {table}", "run an experiment first: kvbench run FILE.yaml"
        )
    columns = [name for name in COLUMNS[table] if name not in without]
    rows = pd.read_parquet(target / table, columns=columns, schema=lineages.schema(table))
    for column, (nullable, value) in _OLDER.items():
        if column in rows:
            rows[column] = rows[column].astype(nullable).fillna(value).astype(type(value))
    return rows


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows by column."""
    return [dict(row) for row in rows.to_dict("records")]  # type: ignore[arg-type]  # names are texts


def _sources(folder: Path) -> Iterator[Source]:
    groups = group_folders(folder)
    yield from map(Source, groups)
    # Of several archives of a group the newest, which sorts last.
    archives = {_archived(path): path for path in sorted(folder.glob(f"*{SUFFIX}"))}
    here = {group.name for group in groups}
    yield from (Source(path) for name, path in archives.items() if name not in here)


def _archived(path: Path) -> str:
    """The group in an archive, by the name that `kvbench archive` gives it."""
    return re.sub(r"-\d{8}T\d{6}Z$", "", path.name.removesuffix(SUFFIX))


def _read_states(target: Path) -> tuple[dict[str, _State], int | None]:
    """The sources read before, and their answers, None where these are to be counted anew."""
    try:
        data = json.loads((target / STATE).read_text(encoding="utf-8"))
        if data["schema"] == _ADOPTED:
            return {place: _adopted(target, place, held) for place, held in _held(data)}, None
        if data["schema"] == SCHEMA:
            return dict(data["sources"]), int(data["answers"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}, None


class _Held(TypedDict):
    """Of an older version: how many rows a source has, or why it has none."""

    problem: str
    rows: int


class _OlderStates(TypedDict):
    sources: dict[str, _Held]


def _held(data: _OlderStates) -> Iterator[tuple[str, _Held]]:
    return (one for one in data["sources"].items() if not one[1]["problem"])


def _adopted(target: Path, place: str, held: _Held) -> _State:
    """What an older version noted of a source, to be read again where it still is."""
    first = lineages.adopt(target, Source(Path(place)).name)
    return {"stamp": [], "problem": "", "rows": held["rows"], "runs": 0, "first": first}


# -- one source ----------------------------------------------------------------------------------


def _gather(sources: Mapping[str, Source], target: Path) -> Iterable[tuple[str, _State]]:
    """Read every source and keep what it holds: its place, and what is to be noted of it."""
    tasks = [(place, source.path, source.name, target) for place, source in sources.items()]
    if len(tasks) < WORTH_A_PROCESS:
        return [_take(task) for task in tasks]
    with ProcessPoolExecutor(min(len(tasks), os.cpu_count() or 1)) as pool:
        return list(pool.map(_take, tasks, chunksize=4))


def _take(task: tuple[str, Path, str, Path]) -> tuple[str, _State]:
    place, path, name, target = task
    try:
        with _unpacked(path) as folder:
            group = read_group(folder)
    except StoreError as error:
        lineages.drop(target, name)
        nothing: _State = {"stamp": [], "problem": "", "rows": 0, "runs": 0, "first": ""}
        return place, {**nothing, "problem": error.what, "group": ""}
    for table in COLUMNS:
        lineages.keep(target, name, table, getattr(group, table))
    first = dict(zip(group.runs.columns, group.runs.rows[0], strict=True))
    return place, {
        "stamp": [],
        "problem": "",
        "rows": len(group.answers.rows),
        "runs": len(group.runs.rows),
        "first": str(first["run_id"]),
        "group": str(first["group"]),
    }


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The group's folder, of an archive in a temporary place."""
    if path.is_dir():
        yield path
        return
    with scratch() as room, Archive(path) as archive:
        archive.extract(lambda member: room / member.path)
        yield room / GROUP
