"""Data of the hub, kept in its own cache; downloads resume and show their progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pytest_kvbench.errors import UsageError
from pytest_kvbench.extras import need
from pytest_kvbench.hub import reason
from pytest_kvbench.tasks.columns import Row


def hub_file(repo: str, filename: str, revision: str, variable: str) -> Path:
    """A file of a data set.

    Args:
        repo: `owner/name` on the hub.
        filename: its path there.
        revision: the pinned commit.
        variable: the environment variable that names a local copy, for the error's hint.

    Raises:
        UsageError: it is not cached and cannot be had.
    """
    from huggingface_hub import hf_hub_download

    with _had(filename, repo, variable):
        return Path(hf_hub_download(repo, filename, repo_type="dataset", revision=revision))


def hub_rows(repo: str, config: str, revision: str, variable: str) -> Iterator[Row]:
    """The rows of a table's `test` split, read through `datasets` (see `parquet`).

    Args:
        repo: `owner/name` on the hub, or a folder in the same layout.
        config: which of its tables.
        revision: the pinned commit.
        variable: the environment variable that names a local copy, for the error's hint.

    Raises:
        UsageError: it is not cached and cannot be had.
    """
    need(["datasets"], f"{repo}, a table of the hub,")
    from datasets import load_dataset

    with _had(config, repo, variable):
        table = load_dataset(repo, config, split="test", revision=revision)
    yield from table


@contextlib.contextmanager
def _had(name: str, repo: str, variable: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # hub, network and disk errors share no base class
        why, remedy = reason(error)
        raise UsageError(
            f"{name} of {repo} cannot be had: {why}",
            f"{remedy}; or get it elsewhere and set {variable} to where it is",
        ) from error
