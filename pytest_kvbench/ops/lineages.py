"""A group's rows, each once, however many folders, archives and restored copies hold the group.

Copies of a group began with the same run. What each of them held when it was read last is kept in
`.sources`; the data set has their union, an answer by its key and a run by its id.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_kvbench.files import replace_bytes
from pytest_kvbench.ops.columns import COLUMNS, Table

if TYPE_CHECKING:
    import pyarrow as pa

SOURCES = ".sources"
_IDENTITY = {"answers": "key", "runs": "run_id"}
_RUNS = "runs"


def schema(name: str) -> pa.Schema:
    """The columns of a table of the data set."""
    import pyarrow as pa

    return pa.schema([(column, pa.type_for_alias(kind)) for column, kind in COLUMNS[name].items()])


def keep(target: Path, source: str, name: str, table: Table) -> None:
    """Keep a table as a source held it."""
    import pyarrow as pa

    values = dict(zip(table.columns, zip(*table.rows, strict=True), strict=False))
    arrays = [
        pa.array(_typed(values.get(field.name, ()), field.type), field.type)
        for field in schema(name)
    ]
    rows = pa.Table.from_arrays(arrays, schema=schema(name))
    replace_bytes(_kept(target, source, name), _parquet(rows))


def adopt(target: Path, source: str) -> str:
    """Keep what an older version wrote of a source as if it had been read now: its first run."""
    import pyarrow.parquet as pq

    for name in COLUMNS:
        former = target / name / f"{source}.parquet"
        _kept(target, source, name).parent.mkdir(parents=True, exist_ok=True)
        former.rename(_kept(target, source, name))
    return str(pq.read_table(_kept(target, source, _RUNS), columns=["run_id"])[0][0])


def merge(target: Path, lineage: str, sources: Sequence[str]) -> None:
    """Bring the rows of a group up to date, by the sources that hold it, the fullest first.

    Cells are those of the first that was analysed: another's may be of fewer answers.
    """
    for name in COLUMNS:
        place = target / name / f"{lineage}.parquet"
        if len(sources) == 1:
            replace_bytes(place, _kept(target, sources[0], name).read_bytes())
            continue
        tables = [_read(_kept(target, source, name), name) for source in sources]
        replace_bytes(place, _parquet(_union(tables, name)))


def forget(target: Path, lineages: Iterable[str]) -> None:
    """Take away the rows of groups that no source holds."""
    for lineage in lineages:
        for name in COLUMNS:
            (target / name / f"{lineage}.parquet").unlink(missing_ok=True)


def drop(target: Path, source: str) -> None:
    """Take away what a source held."""
    shutil.rmtree(target / SOURCES / source, ignore_errors=True)


def answers(target: Path) -> int:
    """How many answers and failures the data set has, each once for every group that asked it."""
    import pyarrow.parquet as pq

    files = (target / "answers").glob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)


def _kept(target: Path, source: str, name: str) -> Path:
    return target / SOURCES / source / f"{name}.parquet"


def _read(file: Path, name: str) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(file, schema=schema(name))


def _union(tables: Sequence[pa.Table], name: str) -> pa.Table:
    import pyarrow as pa

    if name not in _IDENTITY:
        return next((table for table in tables if len(table)), tables[0])
    rows = pa.concat_tables(tables)
    ids = rows.column(_IDENTITY[name]).to_pylist()
    first = {identity: place for place, identity in reversed(list(enumerate(ids)))}
    return rows.take(sorted(first.values()))


def _parquet(rows: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(rows, stream, compression="zstd")
    return stream.getvalue()


def _typed(values: Sequence[Any], kind: Any) -> Sequence[Any]:
    """Values of a column, truth values made of the integers that SQLite has for them."""
    if str(kind) != "bool":
        return values
    return [None if value is None else bool(value) for value in values]
