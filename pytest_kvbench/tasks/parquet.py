"""Parquet tables, read through `datasets`; loading scripts are never run.

`datasets` costs 145 MB and 1.3 s in a process, so it is imported by whoever reads such a table,
which is the one process that prepares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_kvbench.errors import UsageError
from pytest_kvbench.extras import need
from pytest_kvbench.tasks.columns import Row


def parquet_rows(file: Path) -> Iterator[Row]:
    """The rows of a local file.

    Raises:
        UsageError: it is no parquet file.
    """
    need(["datasets"], f"{file}, a parquet file,")
    from datasets import Dataset

    try:
        table = Dataset.from_parquet(str(file))
    except Exception as error:  # `datasets` wraps pyarrow's errors in its own
        raise UsageError(f"{file}: is not a parquet file ({type(error).__name__})", "") from error
    yield from table
