"""`scbench/NAME`: SCBench (Li et al., arXiv 2412.10319): several questions on one shared context.

A policy that does not see the question compresses the context alone, so that every question of a
row is asked of the same compressed cache. `mode: multi-turn` puts the earlier questions with their
right answers before each question, as upstream does; `same-context` asks each alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from pytest_kvbench.tasks.columns import Row, answers_of, list_in, rows_in, text_of, texts_in
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_file
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.tasks.wording import Wording, filled

FAMILY = "scbench"
VARIABLE = "KVBENCH_SCBENCH"
REPO = "microsoft/SCBench"

_PLAIN = "{context}\n\n{earlier}{question}"
_BOOK = "A book:\n\n{context}\n\n{earlier}{question}"
_ASK_BOOK = "Answer from the book, as briefly as you can: {input}\nAnswer:"
_ASK_CHOICE = (
    "{input}\nA. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\nThe right letter:"
)


@dataclass(frozen=True)
class Facts:
    """What SCBench fixes for a task: metric, reply length; and our wording of it."""

    metric: str
    max_tokens: int
    template: str = _PLAIN
    ask: str = "{input}"


FACTS: Mapping[str, Facts] = {
    "kv": Facts("any_of", 150, "A JSON object:\n\n{context}\n\n{earlier}{question}"),
    "prefix_suffix": Facts("any_of", 150),
    "vt": Facts("all_of", 30),
    "choice_eng": Facts("option", 40, _BOOK, _ASK_CHOICE),
    "qa_eng": Facts("any_of", 40, _BOOK, _ASK_BOOK),
    "qa_chn": Facts(
        "f1_characters",
        40,
        "一本书：\n\n{context}\n\n{earlier}{question}",
        "请根据本书简短回答：{input}\n答：",
    ),
    "mf": Facts("first_number", 5, "A list of numbers:\n\n{context}\n\n{earlier}{question}"),
    "many_shot": Facts("any_of", 10),
    "summary": Facts("rouge_l_sum", 200),
}
"""Task -> facts (scbench/eval_utils.py and compute_scores.py of microsoft/MInference)."""


class ScbenchOptions(BenchmarkOptions):
    """Options of `scbench/*`.

    `path`: the folder with `scbench_NAME.jsonl`, or one such file (else `KVBENCH_SCBENCH`, else the
    hub). `mode`: whether the earlier questions, with their right answers, stand before each
    question. `max_length`: tokens of the longest prompt. `max_tokens`: new tokens of a reply.
    """

    mode: Literal["same-context", "multi-turn"] = "same-context"
    max_tokens: int | None = Field(default=None, ge=1)
    revision: str = "main"


@dataclass(frozen=True)
class Scbench(Benchmark):
    """One task: a row's turns are examples that share its context."""

    variable: ClassVar[str] = VARIABLE
    task: str
    options: ScbenchOptions

    @property
    def name(self) -> str:
        """`scbench/<task>`."""
        return f"{FAMILY}/{self.task}"

    @property
    def metric(self) -> str:
        """SCBench's own for the task."""
        return FACTS[self.task].metric

    @cached_property
    def template_version(self) -> str:
        """Digest of our wording and of the options."""
        facts, shaping = FACTS[self.task], self.options.model_dump(include={"mode", "max_length"})
        wording = Wording(facts.template)
        return wording.version(ask=facts.ask, max_tokens=self._max_tokens, **shaping)

    @cached_property
    def data_version(self) -> str:
        """The digest of the task's file."""
        return files_digest([self._file])

    def _whole_prompt(self, example: Example) -> Prompt:
        """The context; then the earlier turns, where they are asked for, and the question."""
        fields = {"earlier": text_of(example.meta, "earlier"), "question": example.question}
        head, tail = Wording(FACTS[self.task].template).parts(example.context, fields)
        return Prompt(head, tail, self._max_tokens)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every turn of every row."""
        for number, row in enumerate(read_jsonl(self._file), start=1):
            try:
                yield from self._turns(row)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise UsageError(
                    f"{self._file}: row {number}: {error}",
                    "needed: context (or input), and multi_turns of input, answer and options",
                ) from error

    def _turns(self, row: Row) -> Iterator[Example]:
        context = text_of(row, "context" if "context" in row else "input")
        earlier: list[str] = []
        for number, turn in enumerate(rows_in(row["multi_turns"], "multi_turns")):
            question = filled(FACTS[self.task].ask, _fields(turn))
            answers = self._answers(turn)
            before = "".join(earlier) if self.options.mode == "multi-turn" else ""
            meta: dict[str, object] = {"turn": number, "earlier": before}
            if turn.get("options"):
                meta["options"] = list_in(turn["options"], "options")
            identity = example_id(
                FAMILY, question, context, answers, f"{row.get('id', '')} {number}"
            )
            yield Example(identity, question, context, answers, meta)
            earlier.append(f"{question} {answers[-1 if self.task == 'choice_eng' else 0]}\n\n")

    def _answers(self, turn: Row) -> tuple[str, ...]:
        answers = answers_of(turn.get("answer"), numbers=True)
        if self.task != "choice_eng" or (answers[-1] in LETTERS and len(answers) == 2):
            return answers
        options = texts_in(turn["options"], "options")
        letter = answers[0] if answers[0] in LETTERS else LETTERS[options.index(answers[0])]
        return options[LETTERS.index(letter)], letter

    @cached_property
    def _file(self) -> Path:
        name = f"scbench_{self.task}.jsonl"
        if self._place is None:
            return hub_file(REPO, f"data/{name}", self.options.revision, VARIABLE)
        if self._place.is_file():
            return self._place
        files = [self._place / name, self._place / "data" / name]
        return next((file for file in files if file.is_file()), files[0])

    @property
    def _max_tokens(self) -> int:
        return self.options.max_tokens or FACTS[self.task].max_tokens


def _fields(turn: Row) -> dict[str, str]:
    options = zip(LETTERS, list_in(turn.get("options") or (), "options"), strict=False)
    texts = {f"OPTION_{name}": text for name, text in options if isinstance(text, str)}
    return {"input": text_of(turn, "input"), **texts}


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of all tasks of the family."""
    return [f"{FAMILY}/{task}" for task in FACTS]


def scbench(task: str, options: Options) -> Scbench:
    """`scbench/<task>`.

    Raises:
        UsageError: an unknown task or option.
    """
    if task not in FACTS:
        raise unknown_task(f"{FAMILY}/{task}", names(options))
    return Scbench(task, read_options(ScbenchOptions, f"{FAMILY}/{task}", options))
