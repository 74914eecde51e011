"""`longmemeval/oracle`, `/s`: LongMemEval (Wu et al., arXiv 2410.10813), questions on old chats.

The history is sent as upstream recommends it: the sessions by date, each as JSON. The authors have
a model judge the replies; here a metric on words does, so two kinds of questions are left out that
none can score: those whose answer is a rubric (`single-session-preference`) or a reason why there
is no answer (`_abs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.metric import get_metric
from pytest_kvbench.tasks.base import (
    Options,
    example_id,
    files_digest,
    read_options,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, answers_of, list_in, rows_in, text_of, texts_in
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_file
from pytest_kvbench.tasks.longbench2 import choice_rows
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.tasks.wording import Wording

FAMILY = "longmemeval"
VARIABLE = "KVBENCH_LONGMEMEVAL"
REPO = "xiaowu0162/longmemeval-cleaned"
FILES: Mapping[str, tuple[str, ...]] = {
    "oracle": ("longmemeval_oracle.json",),
    "s": ("longmemeval_s_cleaned.json", "longmemeval_s.json"),
}
"""History -> names of its file, the newest first."""

_OWN = Wording(
    "These are your earlier chats with a user.\n\n{context}\n\nToday is {date}. Answer the user's "
    "question from the chats, in as few words as possible.\n\nQuestion: {question}\nAnswer:"
)
_UNSCORED = "single-session-preference"
_NEEDED = "needed: question_id, question_type, question, answer, question_date, haystack_*"


class LongMemEvalOptions(BenchmarkOptions):
    """Options of `longmemeval/*`.

    `path`: the folder with `longmemeval_s.json` and the like, or one such file (else
    `KVBENCH_LONGMEMEVAL`, else the hub). `max_length`: tokens of the longest prompt. `metric`:
    what stands for the authors' judge.
    """

    metric: str = "f1"
    max_tokens: int = Field(default=64, ge=1)
    revision: str = "main"


@dataclass(frozen=True)
class LongMemEval(Benchmark):
    """The questions with one of the two histories."""

    variable: ClassVar[str] = VARIABLE
    history: str
    options: LongMemEvalOptions

    @property
    def name(self) -> str:
        """`longmemeval/<history>`."""
        return f"{FAMILY}/{self.history}"

    @property
    def metric(self) -> str:
        """The metric that the option names."""
        return self.options.metric

    @cached_property
    def template_version(self) -> str:
        """Digest of our wording and of the options."""
        return _OWN.version(**self.options.model_dump(include={"max_tokens", "max_length"}))

    @cached_property
    def data_version(self) -> str:
        """The digest of the file."""
        return files_digest([self._file])

    def _whole_prompt(self, example: Example) -> Prompt:
        """The chats, then the question and its date."""
        fields = {"question": example.question, "date": text_of(example.meta, "date")}
        return Prompt(*_OWN.parts(example.context, fields), self.options.max_tokens)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every question that a metric on words can score."""
        for number, row in enumerate(choice_rows(self._file), start=1):
            try:
                if _is_scored(row):
                    yield _example(row)
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{self._file}: row {number}: {error}", _NEEDED) from error

    @cached_property
    def _file(self) -> Path:
        names = FILES[self.history]
        if self._place is None:
            return hub_file(REPO, names[0], self.options.revision, VARIABLE)
        if self._place.is_file():
            return self._place
        files = [self._place / name for name in names]
        return next((file for file in files if file.is_file()), files[0])


def _is_scored(row: Row) -> bool:
    kind, identity = text_of(row, "question_type"), text_of(row, "question_id")
    return kind != _UNSCORED and not identity.endswith("_abs")


def _example(row: Row) -> Example:
    question, context = text_of(row, "question"), _history(row)
    answers = answers_of(row.get("answer"), numbers=True)
    meta = {"date": text_of(row, "question_date"), "question_type": row["question_type"]}
    identity = example_id(FAMILY, question, context, answers, text_of(row, "question_id"))
    return Example(identity, question, context, answers, meta)


def _history(row: Row) -> str:
    """All sessions by date, without the mark of the turn that holds the answer."""
    dates = texts_in(row["haystack_dates"], "haystack_dates")
    sessions = list_in(row["haystack_sessions"], "haystack_sessions")
    dated = zip(dates, sessions, strict=True)
    parts = []
    for number, (date, session) in enumerate(sorted(dated, key=lambda pair: pair[0]), start=1):
        said = rows_in(session, "haystack_sessions")
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in said]
        parts.append(f"Chat {number}, {date}:\n{json.dumps(turns, ensure_ascii=False)}")
    return "\n\n".join(parts)


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of both tasks of the family."""
    return [f"{FAMILY}/{history}" for history in FILES]


def longmemeval(history: str, options: Options) -> LongMemEval:
    """`longmemeval/<history>`.

    Raises:
        UsageError: an unknown history, option or metric.
    """
    if history not in FILES:
        raise unknown_task(f"{FAMILY}/{history}", names(options))
    read = read_options(LongMemEvalOptions, f"{FAMILY}/{history}", options)
    get_metric(read.metric)
    return LongMemEval(history, read)
