"""`ruler/NAME`: files of RULER's generator, or of its hub mirror (Hsieh et al., arXiv 2404.06654).

Read are the generator's `NAME/validation.jsonl` under any folders (`4096/data/NAME/...`),
`NAME.jsonl`, and files whose rows say their own `task`. Rows: `index, input, outputs, length`, or
the mirror's `context, question, answer_prefix, answer`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.base import (
    TaskOptions,
    example_id,
    read_options,
    template_version,
    unknown_task,
)
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.cutting import apply_cut, cut_long_ones
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.tokenizers import Tokenizer

FAMILY = "ruler"
VARIABLE = "KVBENCH_RULER"
TOKENS: Mapping[str, int] = {
    **dict.fromkeys(("niah_single_1", "niah_single_2", "niah_single_3"), 128),
    **dict.fromkeys(("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"), 128),
    **dict.fromkeys(("niah_multivalue", "niah_multiquery"), 128),
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    **dict.fromkeys(("qa_1", "qa_2"), 32),
}
"""Task -> new tokens of a reply (RULER: data/synthetic/constants.py)."""

_QUESTION = re.compile(r"\n(?=Question: |What (?:is|are all) the special magic )")


class RulerOptions(TaskOptions):
    """Options of `ruler/*`.

    `path`: the folder or file (else `KVBENCH_RULER`). `chat`: whether the chat template is applied;
    by default not, as the generator's prompts are whole and end with the answer's first words.
    """

    path: str | None = None
    chat: bool = False
    max_length: int | None = Field(default=None, ge=2)


@dataclass(frozen=True)
class Ruler:
    """One of the 13 tasks."""

    task: str
    options: RulerOptions
    generated: bool = False

    @property
    def name(self) -> str:
        """`ruler/<task>`."""
        return f"{FAMILY}/{self.task}"

    @property
    def metric(self) -> str:
        """`string_match_part` for the two question-answering tasks, else `string_match_all`."""
        return "any_of" if self.task.startswith("qa_") else "all_of"

    @cached_property
    def template_version(self) -> str:
        """Digest of options: the text of the prompts is the data's own."""
        shaping = self.options.model_dump(exclude={"path"})
        return template_version(max_tokens=TOKENS[self.task], **shaping)

    def prompt(self, example: Example) -> Prompt:
        """The generator's text as it is; the tail begins with its last question."""
        prompt = Prompt(example.context, example.question, TOKENS[self.task], self.options.chat)
        return apply_cut(prompt, example)

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:  # noqa: ARG002  # the data decides
        """Every row of every length that is there."""
        made = [self._example(row, file) for file, row in self._rows()]
        return cut_long_ones(made, self.prompt, tokenizer, self.options.max_length)

    def _rows(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        files = self._files()
        for file in files:
            for row in read_jsonl(file):
                if row.get("task", self.task) == self.task:
                    yield file, row

    def _files(self) -> list[Path]:
        given = self.options.path or os.environ.get(VARIABLE)
        if not given:
            raise UsageError(
                f"{self.name} needs RULER's files",
                f"make them with RULER's generator and set {VARIABLE} or the option path",
            )
        path = Path(given).expanduser()
        if path.is_file():
            return [path]
        wanted = [*path.rglob(f"{self.task}/*.jsonl"), *path.rglob(f"{self.task}.jsonl")]
        if not wanted:
            present = sorted({p.parent.name for p in path.rglob("*.jsonl")})
            raise UsageError(f"no file for {self.name} in {path}", f"folders with data: {present}")
        return sorted(set(wanted))

    def _example(self, row: Mapping[str, Any], file: Path) -> Example:
        try:
            head, tail = _parts(row)
            answers = tuple(str(a) for a in row.get("outputs", row.get("answer", ())))
        except KeyError as error:
            raise UsageError(
                f"{file}: a row has no field {error}",
                "needed: input and outputs, or context, question and answer",
            ) from error
        keys = ("index", "length", "token_position_answer")
        meta = {key: row[key] for key in keys if row.get(key) is not None}
        return Example(example_id(FAMILY, tail, head, answers), tail, head, answers, meta)


def _parts(row: Mapping[str, Any]) -> tuple[str, str]:
    """Context and question with the answer's first words; together the prompt as RULER sends it."""
    prefix = str(row.get("answer_prefix", ""))
    if "input" not in row:
        return row["context"], row["question"] + prefix
    text = str(row["input"])
    splits = [match.start() for match in _QUESTION.finditer(text)]
    at = splits[-1] if splits else len(text)
    return text[:at], text[at:] + prefix


def names(options: Mapping[str, Any]) -> list[str]:  # noqa: ARG001  # a family's signature
    """The 13 tasks."""
    return [f"{FAMILY}/{task}" for task in TOKENS]


def ruler(task: str, options: Mapping[str, Any]) -> Ruler:
    """`ruler/<task>`.

    Raises:
        UsageError: an unknown task or option.
    """
    if task not in TOKENS:
        raise unknown_task(f"{FAMILY}/{task}", names(options))
    return Ruler(task, read_options(RulerOptions, f"{FAMILY}/{task}", options))
