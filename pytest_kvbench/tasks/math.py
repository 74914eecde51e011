"""`math:PATH`: problems with an answer to be boxed, as MATH500 and AIME25 have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.base import Options, TaskOptions, read_options
from pytest_kvbench.tasks.columns import Row
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.rows import RowTask

PREFIX = "math:"
TEMPLATE = (
    "{context}Solve the problem step by step, and put the final answer in \\boxed{}.\n\n{question}"
)
_PROBLEM = ("problem", "question", "context")
"""Where a row has its problem: MATH's name, AIME's, and kvpress's own."""


class MathOptions(TaskOptions):
    """Options of `math:PATH`: new tokens of a reply, which works a problem out at length."""

    max_tokens: int = Field(default=2_048, ge=1)


def math(path: str, options: Options) -> RowTask:
    """The task in the file `path`: a line is `{"problem": ..., "answer": ...}`.

    Raises:
        UsageError: an option that does not exist.
    """
    read = read_options(MathOptions, f"{PREFIX}{path}", options)
    return RowTask(
        name=f"{PREFIX}{Path(path).as_posix()}",
        rows=lambda: _rows(Path(path)),
        metric="boxed",
        template=TEMPLATE,
        file=Path(path),
        max_tokens=read.max_tokens,
    )


def _rows(path: Path) -> Iterator[Row]:
    for number, row in enumerate(read_jsonl(path), start=1):
        problem = next((row[name] for name in _PROBLEM if row.get(name)), None)
        if not isinstance(problem, str) or row.get("answer") in (None, ""):
            raise UsageError(
                f"{path}:{number}: has no problem, or no answer",
                'needed: {"problem": "...", "answer": "..."} on each line',
            )
        yield {"question": problem, "answers": [str(row["answer"])]}
