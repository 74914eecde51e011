"""Tasks made from rows of data: the way to add one in a few lines.

    def capitals(options):
        return RowTask(name="mine/capitals", metric="any_of", rows=load_rows)

`load_rows` gives dicts with `question`, `answers` and, where there is one, `context`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt, digest
from pytest_kvbench.score.metric import check_meta, get_metric
from pytest_kvbench.tasks.base import example_id, files_digest, template_version
from pytest_kvbench.tasks.columns import Row, answers_of, check_cluster, further, text_of
from pytest_kvbench.tasks.given import GivenData
from pytest_kvbench.tasks.tokenizers import Tokenizer

FIELDS = (
    "question (text), answers (a list of texts, or one), context (text, optional), "
    "cluster (what rows that are not independent share; optional)"
)
TEMPLATE = "{context}\n\nQuestion: {question}\nAnswer:"


@dataclass(frozen=True)
class RowTask(GivenData):
    """A data set, a template and a metric.

    Args:
        name: as written in an experiment, `family/name`.
        rows: gives all rows; called when examples are chosen, not before.
        metric: a key of `score.METRICS`.
        template: text with `{context}`, then `{question}`. What follows the context is the
            prompt's tail; without a context the tail is the whole prompt.
        max_tokens: new tokens of a reply.
        chat: whether the chat template is applied.
        stop: strings that end a reply.
        max_length: longest prompt in tokens; longer ones are cut in the middle.
        file: where all rows come from, if from one file: noticing a change is then cheaper.

    Raises:
        UsageError: an unknown metric, or a template without its two fields.
    """

    name: str
    rows: Callable[[], Iterable[Row]] = field(repr=False)
    metric: str = "any_of"
    template: str = TEMPLATE
    max_tokens: int = 64
    chat: bool = True
    stop: tuple[str, ...] = ()
    max_length: int | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        get_metric(self.metric)
        _, context, after = self.template.partition("{context}")
        if not context or "{question}" not in after:
            raise UsageError(
                f"task {self.name}: template {self.template!r}",
                "needed: a text with {context}, and {question} after it",
            )

    @cached_property
    def template_version(self) -> str:
        """Digest of wording and options; never of the data."""
        return template_version(
            text=self.template,
            max_tokens=self.max_tokens,
            chat=self.chat,
            stop=self.stop,
            max_length=self.max_length,
        )

    @cached_property
    def data_version(self) -> str:
        """Digest of the rows, or of `file` where they are all it holds."""
        if self.file is not None:
            return files_digest([self.file])
        rows = (self._example(row, number) for number, row in enumerate(self.rows(), start=1))
        return digest([[example.example_id, dict(example.meta)] for example in rows])

    def _whole_prompt(self, example: Example) -> Prompt:
        """The context, then the question."""
        before, _, after = self.template.partition("{context}")
        head = before + example.context
        tail = after.replace("{question}", example.question)
        if not example.context:
            head, tail = "", (head + tail).lstrip()
        return Prompt(head, tail, self.max_tokens, self.chat, self.stop)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """The example of every row, in the data's order."""
        return (self._example(row, number) for number, row in enumerate(self.rows(), start=1))

    def _example(self, row: Row, number: int) -> Example:
        try:
            example = row_example(row)
            check_meta(self.metric, example.meta)
            return example
        except ValueError as error:
            raise UsageError(f"{self.name}: row {number}: {error}", f"needed: {FIELDS}") from error


def row_example(row: Row) -> Example:
    """The example of a row; further fields become its `meta`.

    Raises:
        ValueError: fields that are missing, of the wrong type or no JSON.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{type(row).__name__} instead of named fields")
    question, context = text_of(row, "question"), text_of(row, "context", "")
    answers = answers_of(row.get("answers", row.get("answer")))
    source = str(row.get("_id", row.get("id", "")))
    check_cluster(row)
    meta = further(row, ("question", "context", "answers", "answer"))
    identity = example_id("rows", question, context, answers, source)
    return Example(identity, question, context, answers, meta)
