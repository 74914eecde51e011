"""JSON lines: the task `jsonl:PATH`, which needs no code, and the reader that others share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.base import TaskOptions, read_options
from pytest_kvbench.tasks.rows import RowTask

PREFIX = "jsonl:"


class JsonlOptions(TaskOptions):
    """Options of a `jsonl:` task."""

    metric: str = "any_of"
    max_tokens: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=None, ge=1)


def jsonl(path: str, options: Mapping[str, Any]) -> RowTask:
    """The task in the file `path`, relative to the working directory.

    Raises:
        UsageError: an option or a metric that does not exist.
    """
    read = read_options(JsonlOptions, f"{PREFIX}{path}", options)
    return RowTask(
        name=f"{PREFIX}{Path(path).as_posix()}",
        rows=lambda: read_jsonl(Path(path)),
        file=Path(path),
        **read.model_dump(),
    )


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The object of every line that is not blank.

    Raises:
        UsageError: no such file, or a line that is not a JSON object.
    """
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    with file:
        yield from objects(file, str(path))


def objects(lines: Iterable[str], where: str) -> Iterator[dict[str, Any]]:
    """The object of every line that is not blank.

    Raises:
        UsageError: naming `where` and the line's number.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _object(line, f"{where}:{number}")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}", "one object a line") from error
    if not isinstance(row, dict):
        raise UsageError(f"{where}: {type(row).__name__}", "needed: one object a line")
    return row
