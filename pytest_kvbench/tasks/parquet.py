"""Parquet tables, local or on the hub, read through `datasets`; loading scripts are never run.

`datasets` costs 145 MB and 1.3 s in a process, so it is imported by whoever reads such a table,
which is the one process that prepares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import UsageError


def hub_rows(repo: str, config: str, revision: str, variable: str) -> Iterator[dict[str, Any]]:
    """The rows of a table's `test` split, kept in the hub's own cache; shows its progress.

    Args:
        repo: `owner/name` on the hub, or a folder in the same layout.
        config: which of its tables.
        revision: the pinned commit.
        variable: the environment variable that names a local copy, for the error's hint.

    Raises:
        UsageError: it is not cached and cannot be had.
    """
    from datasets import load_dataset

    try:
        table = load_dataset(repo, config, split="test", revision=revision)
    except Exception as error:  # hub, network and disk errors share no base class
        raise UsageError(
            f"{config} of {repo} is not cached and cannot be had ({type(error).__name__})",
            f"get it elsewhere and set {variable} to its folder or file",
        ) from error
    yield from table


def parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a local file.

    Raises:
        UsageError: it is no parquet file.
    """
    from datasets import Dataset

    try:
        table = Dataset.from_parquet(str(file))
    except Exception as error:  # `datasets` wraps pyarrow's errors in its own
        raise UsageError(f"{file}: is not a parquet file ({type(error).__name__})", "") from error
    yield from table
