"""`kvpress:PATH`: rows as kvpress's own evaluation sets have them, JSON lines or parquet.

Columns `context, question, answer_prefix, answer` or `answers`, and where there are some
`max_new_tokens`, `task` and `all_classes`: its InfiniteBench, LooGLE, ZeroSCROLLS and RULER, and
AIME25 and MATH500 (with `metric: boxed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.metric import check_meta, get_metric
from pytest_kvbench.tasks.base import (
    Options,
    TaskOptions,
    example_id,
    read_options,
    template_version,
)
from pytest_kvbench.tasks.columns import Row, answers_of, check_cluster, text_of, whole_of
from pytest_kvbench.tasks.given import OneFile
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.parquet import parquet_rows
from pytest_kvbench.tasks.tokenizers import Tokenizer

PREFIX = "kvpress:"
_NEEDED = "needed: context, question, answer (or answers); answer_prefix and max_new_tokens if any"
_META = ("task", "length", "all_classes", "cluster", "options", "labels")


class KvpressOptions(TaskOptions):
    """Options of `kvpress:PATH`.

    `metric` scores a reply. `task`: the rows of that task alone, where a file holds several.
    `max_tokens`: new tokens of a reply; by default the row's `max_new_tokens`, else 64.
    `max_length`: longest prompt in tokens. `chat`: whether the chat template is applied.
    """

    metric: str = "any_of"
    task: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=2)
    chat: bool = True


@dataclass(frozen=True)
class KvpressRows(OneFile):
    """The rows of one file."""

    prefix: ClassVar[str] = PREFIX
    path: Path
    options: KvpressOptions

    @property
    def metric(self) -> str:
        """The metric that the option names."""
        return self.options.metric

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest prompt, as the option says."""
        return self.options.max_length

    @cached_property
    def template_version(self) -> str:
        """Digest of the options: the text of the prompts is the data's own."""
        return template_version(**self.options.model_dump(exclude={"metric", "task"}))

    def _whole_prompt(self, example: Example) -> Prompt:
        """Context, question and the answer's first words, as the row has them."""
        tokens = self.options.max_tokens or whole_of(example.meta, "max_new_tokens") or 64
        return Prompt(example.context, example.question, tokens, self.options.chat)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every row of the file, or of the task that is asked for."""
        found = False
        for number, row in enumerate(self._rows(), start=1):
            if self.options.task in {None, row.get("task")}:
                found = True
                try:
                    yield self._example(row)
                except ValueError as error:
                    raise UsageError(f"{self.path}: row {number}: {error}", _NEEDED) from error
        if not found:
            raise UsageError(f"{self.path}: no row of task {self.options.task!r}", "check `task`")

    def _rows(self) -> Iterator[Row]:
        return parquet_rows(self.path) if self.path.suffix == ".parquet" else read_jsonl(self.path)

    def _example(self, row: Row) -> Example:
        context = text_of(row, "context")
        question = text_of(row, "question", "") + text_of(row, "answer_prefix", "")
        answers = answers_of(row.get("answers", row.get("answer")), numbers=True)
        check_cluster(row)
        meta = {key: row[key] for key in _META if row.get(key) is not None}
        if tokens := whole_of(row, "max_new_tokens"):
            meta["max_new_tokens"] = tokens
        check_meta(self.metric, meta)
        return Example(
            example_id(PREFIX, question, context, answers), question, context, answers, meta
        )


def kvpress(path: str, options: Options) -> KvpressRows:
    """The task in the file `path`, relative to the working directory.

    Raises:
        UsageError: an option or a metric that does not exist.
    """
    read = read_options(KvpressOptions, f"{PREFIX}{path}", options)
    get_metric(read.metric)
    return KvpressRows(Path(path), read)
