"""`infinitebench/NAME`: InfiniteBench's 12 tasks (Zhang et al., arXiv 2402.13718).

Prompts are the authors' where their `prompt.py` lies beside the data (or in `src/` there), else
our own. As upstream has it, prompts that are too long are cut in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.credited import LETTERS
from pytest_kvbench.tasks.base import (
    Options,
    example_id,
    files_digest,
    read_options,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, answers_of, first_list, list_in, text_of
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_file
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.tasks.wording import Wording, constants
from pytest_kvbench.wire import sound

FAMILY = "infinitebench"
VARIABLE = "KVBENCH_INFINITEBENCH"
REPO = "xinrongzhang2022/InfiniteBench"

_FOUR = "A. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\n\n"
_HIDDEN = "One thing matters in the long text below. Remember it.\n\n{context}\n\n{input}\n\n"
_BOOK = "A book:\n\n{context}\n\nAnswer from the book, as briefly as you can: {question}\n\nAnswer:"


@dataclass(frozen=True)
class Facts:
    """What InfiniteBench fixes for a task: metric, reply length; and our wording of its prompt."""

    metric: str
    max_tokens: int
    template: str


FACTS: Mapping[str, Facts] = {
    "passkey": Facts("first_digits", 6, f"{_HIDDEN}The pass key:"),
    "number_string": Facts("first_digits", 12, f"{_HIDDEN}The digits:"),
    "kv_retrieval": Facts("word_of", 50, "A JSON object:\n\n{context}\n\n{input}"),
    "longbook_sum_eng": Facts(
        "rouge_l_sum", 1200, "A book:\n\n{context}\n\nSum the book up.\n\nSummary:"
    ),
    "longbook_choice_eng": Facts(
        "option",
        40,
        f"A book:\n\n{{context}}\n\n{{question}}\n\n{_FOUR}The right letter:",
    ),
    "longbook_qa_eng": Facts("f1", 40, _BOOK),
    "longbook_qa_chn": Facts(
        "f1_characters", 40, "一本书：\n\n{context}\n\n请根据本书简短回答：{question}\n\n答："
    ),
    "longdialogue_qa_eng": Facts(
        "word_in_capitals",
        40,
        "In this script one name was replaced by $$MASK$$.\n\n{context}\n\n"
        "Which name was it, as the script writes it? Say the name only.\n\nName:",
    ),
    "math_find": Facts("first_number", 3, "A list of numbers:\n\n{context}\n\n{input}"),
    "math_calc": Facts(
        "numbers_in_order",
        30_000,
        "A calculation:\n\n{context}\n\nList the first number and then the result after each "
        "sign, as [1, 2, 3].\n\nValues:",
    ),
    "code_run": Facts(
        "last_word_as_number",
        5,
        "Python functions:\n\n{context}\n\nWhat does {func_call} return? Say the number only.\n\n"
        "It returns",
    ),
    "code_debug": Facts(
        "option_of_code",
        5,
        "Python code, in which one function was broken on purpose:\n\n{context}\n\n"
        f"Which one?\n{_FOUR}The correct option is:",
    ),
}
"""Task -> facts (src/eval_utils.py and src/compute_scores.py of OpenBMB/InfiniteBench)."""

_CHOICES = frozenset({"code_debug", "longbook_choice_eng"})
_CALL = re.compile(r"func_\d+\(-?\d+\)")
_OWN_ONLY = "math_find"  # a sentence of its official prompt stands in upstream's code alone


class InfiniteBenchOptions(BenchmarkOptions):
    """Options of `infinitebench/*`.

    `path`: the folder with `NAME.jsonl`, or one such file (else `KVBENCH_INFINITEBENCH`, else the
    hub). `max_length`: tokens of the longest prompt. `prompts`: which of the authors' sets is
    taken, where their `prompt.py` lies beside the data. `max_tokens`: new tokens of a reply;
    InfiniteBench's are for models that complete its last line. `chat`: whether the chat template is
    applied.
    """

    prompts: Literal["yarn_mistral", "gpt4", "claude2"] = "yarn_mistral"
    max_tokens: int | None = Field(default=None, ge=1)
    chat: bool = True
    revision: str = "main"


@dataclass(frozen=True)
class InfiniteBench(Benchmark):
    """One of the twelve tasks."""

    variable: ClassVar[str] = VARIABLE
    task: str
    options: InfiniteBenchOptions

    @property
    def name(self) -> str:
        """`infinitebench/<task>`."""
        return f"{FAMILY}/{self.task}"

    @property
    def metric(self) -> str:
        """InfiniteBench's own for the task."""
        return FACTS[self.task].metric

    @cached_property
    def template_version(self) -> str:
        """Whose wording it is, then the digest of text and options."""
        chat, length = self.options.chat, self.options.max_length
        return self._wording.version(max_tokens=self._max_tokens, chat=chat, max_length=length)

    @cached_property
    def data_version(self) -> str:
        """The digest of the task's file."""
        return files_digest([self._file])

    def _whole_prompt(self, example: Example) -> Prompt:
        """The template filled in; head and tail part where the text ends."""
        head, tail = self._wording.parts(example.context, _fields(example))
        return Prompt(head, tail, self._max_tokens, self.options.chat)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every row of the task's file."""
        for number, row in enumerate(read_jsonl(self._file), start=1):
            try:
                yield _example(row, self.task)
            except (ValueError, IndexError) as error:
                raise UsageError(
                    f"{self._file}: row {number}: {error}",
                    "needed: context, input, answer, and options where there are some",
                ) from error

    @cached_property
    def _file(self) -> Path:
        if self._place is None:
            return hub_file(REPO, f"{self.task}.jsonl", self.options.revision, VARIABLE)
        return self._place / f"{self.task}.jsonl" if self._place.is_dir() else self._place

    @cached_property
    def _wording(self) -> Wording:
        sets = constants(self._place, "prompt.py", "src/prompt.py")
        official = sound.fields(sets.get(f"{self.options.prompts}_templates")).get(self.task)
        if isinstance(official, str) and official and self.task != _OWN_ONLY:
            return Wording(official, official=True)
        return Wording(FACTS[self.task].template)

    @property
    def _max_tokens(self) -> int:
        return self.options.max_tokens or FACTS[self.task].max_tokens


def _example(row: Row, task: str) -> Example:
    question, context = text_of(row, "input", ""), text_of(row, "context")
    options = list_in(row.get("options") or (), "options")
    answers = answers_of(first_list(row.get("answer")), numbers=True)
    if task in _CHOICES:
        answers = _with_letter(answers, options)
    if task == "code_run" and not _CALL.search(question):
        raise ValueError(f"input {question[:60]!r} names no call of a function")
    meta = {"options": options} if options else {}
    identity = example_id(FAMILY, question, context, answers, str(row.get("id", "")))
    return Example(identity, question, context, answers, meta)


def _with_letter(answers: tuple[str, ...], options: Sequence[object]) -> tuple[str, ...]:
    """The right option's text and its letter, as upstream's scorer wants them."""
    if len(options) != len(LETTERS):
        raise ValueError(f"{len(options)} options instead of {len(LETTERS)}")
    if len(answers) > 1 and answers[1] in LETTERS:
        return answers[:2]
    return answers[0], LETTERS[options.index(answers[0])]


def _fields(example: Example) -> dict[str, str]:
    question = example.question
    options = zip(LETTERS, list_in(example.meta.get("options", ()), "options"), strict=False)
    fields = {"input": question, "question": question}
    fields |= {f"OPTION_{letter}": str(text) for letter, text in options}
    if call := _CALL.search(question):
        fields |= {"func_call": call[0], "func": call[0].partition("(")[0]}
    return fields


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of all tasks of the family."""
    return [f"{FAMILY}/{task}" for task in FACTS]


def infinitebench(task: str, options: Options) -> InfiniteBench:
    """`infinitebench/<task>`.

    Raises:
        UsageError: an unknown task or option.
    """
    if task not in FACTS:
        raise unknown_task(f"{FAMILY}/{task}", names(options))
    return InfiniteBench(task, read_options(InfiniteBenchOptions, f"{FAMILY}/{task}", options))
