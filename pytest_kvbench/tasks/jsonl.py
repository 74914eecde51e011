"""`jsonl:PATH`: a task without any code, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score import get_metric
from pytest_kvbench.tasks.base import TaskOptions, example_id, read_options, template_version
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.tokenizers import Tokenizer

PREFIX = "jsonl:"
FIELDS = "question (text), answers (a list of texts, or one), context (text, optional)"
ASK = "Question: {question}\nAnswer:"


class JsonlOptions(TaskOptions):
    """Options of a `jsonl:` task."""

    metric: str = "any_of"
    max_tokens: int = Field(default=64, ge=1)


@dataclass(frozen=True)
class Jsonl:
    """Questions from a file; further fields of a row become the example's `meta`."""

    path: Path
    options: JsonlOptions
    generated: bool = False

    @property
    def name(self) -> str:
        """`jsonl:PATH`, as written."""
        return f"{PREFIX}{self.path.as_posix()}"

    @property
    def metric(self) -> str:
        """As chosen in the options."""
        return self.options.metric

    @cached_property
    def template_version(self) -> str:
        """Digest of wording and options."""
        return template_version(text=[ASK], options=self.options.model_dump())

    def prompt(self, example: Example) -> Prompt:
        """The context, then the question."""
        head = f"{example.context}\n\n" if example.context else ""
        return Prompt(head, ASK.format(question=example.question), self.options.max_tokens)

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:  # noqa: ARG002  # the data decides
        """Every row of the file."""
        return [self._example(row, line) for line, row in rows(self.path)]

    def _example(self, row: Mapping[str, Any], line: int) -> Example:
        question, context = row.get("question"), row.get("context", "")
        answers = row.get("answers")
        answers = [answers] if isinstance(answers, str) else answers
        if not _texts([question, context]) or not isinstance(answers, list) or not _texts(answers):
            raise UsageError(f"{self.path}:{line}: wrong or missing fields", f"needed: {FIELDS}")
        source = str(row.get("_id", row.get("id", "")))
        identity = example_id("jsonl", str(question), str(context), answers, source)
        meta = {k: v for k, v in row.items() if k not in {"question", "context", "answers"}}
        return Example(identity, str(question), str(context), tuple(answers), meta)


def _texts(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    Raises:
        UsageError: no such file, or a line that is not a JSON object.
    """
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _object(line, path, number)


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}:{number}: not JSON: {error}", "one object a line") from error
    if not isinstance(row, dict):
        raise UsageError(f"{path}:{number}: {type(row).__name__}", "needed: one object a line")
    return row


def jsonl(path: str, options: Mapping[str, Any]) -> Jsonl:
    """The task in the file `path`, relative to the working directory.

    Raises:
        UsageError: an option or a metric that does not exist.
    """
    read = read_options(JsonlOptions, f"{PREFIX}{path}", options)
    get_metric(read.metric)
    return Jsonl(Path(path), read)
