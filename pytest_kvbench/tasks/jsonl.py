"""JSON lines: the task `jsonl:PATH`, which needs no code, and the reader that others share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import parse_json, text_lines
from pytest_kvbench.tasks.base import Options, TaskOptions, read_options
from pytest_kvbench.tasks.columns import Row
from pytest_kvbench.tasks.rows import RowTask

PREFIX = "jsonl:"
ROWS = "needed: one JSON object a line"


class JsonlOptions(TaskOptions):
    """Options of files: `metric` scores a reply; `max_length`: longest prompt in tokens."""

    metric: str = "any_of"
    max_tokens: int = Field(default=64, ge=1)
    max_length: int | None = Field(default=None, ge=1)


def jsonl(path: str, options: Options) -> RowTask:
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


def read_jsonl(path: Path) -> Iterator[Row]:
    """The object of every line that is not blank; a byte order mark and gzip are read too.

    Raises:
        UsageError: no such file, no text, no row, or a line that is not a JSON object.
    """
    return objects(text_lines(path), str(path))


def objects(lines: Iterable[str], where: str) -> Iterator[Row]:
    """The object of every line that is not blank.

    Raises:
        UsageError: a line is no JSON object (the message has its number), or all are blank.
    """
    number, empty = 0, True
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _object(line, f"{where}:{number}")
            empty = False
    if empty:
        raise UsageError(f"{where}: holds no row ({number} lines)", ROWS)


def _object(line: str, where: str) -> Row:
    row = parse_json(line, where, ROWS)
    if not isinstance(row, dict):
        raise UsageError(f"{where}: {type(row).__name__}", ROWS)
    return row
