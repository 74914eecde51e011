"""`ruler/NAME`: files of RULER's generator, or of its hub mirror (Hsieh et al., arXiv 2404.06654).

Read are the generator's `NAME/validation.jsonl` under any folders (`4096/data/NAME/...`),
`NAME.jsonl`, and jsonl or parquet files whose rows say their own `task`; where no place is given,
the hub's mirror. Rows: `index, input, outputs, length`, or the mirror's `context, question,
answer_prefix, answer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt, digest
from pytest_kvbench.tasks.base import (
    Options,
    example_id,
    files_digest,
    read_options,
    template_version,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, answers_of, text_of
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_rows
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.parquet import parquet_rows
from pytest_kvbench.tasks.tokenizers import Tokenizer

FAMILY = "ruler"
VARIABLE = "KVBENCH_RULER"
MIRROR = "simonjegou/ruler"
REVISION = "24adceac8a0e6532936e8d721cd9e9084d2e4686"
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


class RulerOptions(BenchmarkOptions):
    """Options of `ruler/*`.

    `path`: the folder or file (else `KVBENCH_RULER`, else the hub's mirror). `lengths`: which of
    the mirror's lengths, in tokens of its own tokenizer. `chat`: whether the chat template is
    applied; by default not, as the generator's prompts are whole and end with the answer's first
    words.
    """

    lengths: tuple[int, ...] = Field(default=(4096,), min_length=1)
    chat: bool = False


@dataclass(frozen=True)
class Ruler(Benchmark):
    """One of RULER's 13 tasks."""

    variable: ClassVar[str] = VARIABLE
    task: str
    options: RulerOptions

    @property
    def name(self) -> str:
        """`ruler/<task>`."""
        return f"{FAMILY}/{self.task}"

    @property
    def metric(self) -> str:
        """RULER's `string_match_part` (`any_of`) for `qa_*`, else `string_match_all` (`all_of`)."""
        return "any_of" if self.task.startswith("qa_") else "all_of"

    @cached_property
    def template_version(self) -> str:
        """Digest of options: the text of the prompts is the data's own."""
        shaping = self.options.model_dump(exclude={"path", "lengths"})
        return template_version(max_tokens=TOKENS[self.task], **shaping)

    @cached_property
    def data_version(self) -> str:
        """Digest of the task's files, those of all lengths, or what of the mirror is read."""
        if self._place is None:
            return digest([MIRROR, REVISION, self.options.lengths])
        return files_digest(self._files(self._place))

    def _whole_prompt(self, example: Example) -> Prompt:
        """The generator's text as it is; the tail begins with its last question."""
        return Prompt(example.context, example.question, TOKENS[self.task], self.options.chat)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every row of every length that is there."""
        return (
            self._example(row, source)
            for source, row in self._rows()
            if row.get("task", self.task) == self.task
        )

    def _rows(self) -> Iterator[tuple[str, Row]]:
        """Every row that is there, and where it came from."""
        if self._place is None:
            for length in self.options.lengths:
                rows = hub_rows(MIRROR, str(length), REVISION, VARIABLE)
                for number, row in enumerate(rows, start=1):
                    yield f"{MIRROR} {length}: row {number}", row
            return
        for file in self._files(self._place):
            read = parquet_rows if file.suffix == ".parquet" else read_jsonl
            for number, row in enumerate(read(file), start=1):
                yield f"{file}: row {number}", row

    def _files(self, place: Path) -> list[Path]:
        if place.is_file():
            return [place]
        names = (f"{self.task}{end}" for end in ("/*.jsonl", "/*.jsonl.gz", ".jsonl", ".jsonl.gz"))
        wanted = {file for name in names for file in place.rglob(name)}
        wanted = wanted or {*place.rglob("*.parquet")}
        if not wanted:
            present = sorted({p.parent.name for p in place.rglob("*.jsonl")})
            raise UsageError(f"no file for {self.name} in {place}", f"folders with data: {present}")
        return sorted(wanted)

    def _example(self, row: Row, source: str) -> Example:
        try:
            head, tail = _parts(row)
            answers = answers_of(row.get("outputs", row.get("answer")), numbers=True)
        except ValueError as error:
            raise UsageError(
                f"{source}: {error}",
                "needed: input and outputs, or context, question and answer",
            ) from error
        keys = ("index", "length", "token_position_answer")
        meta = {key: row[key] for key in keys if row.get(key) is not None}
        return Example(example_id(FAMILY, tail, head, answers), tail, head, answers, meta)


def _parts(row: Row) -> tuple[str, str]:
    """Context and question with the answer's first words; together the prompt as RULER sends it."""
    prefix = text_of(row, "answer_prefix", "")
    if "input" not in row:
        return text_of(row, "context"), text_of(row, "question") + prefix
    text = text_of(row, "input")
    splits = [match.start() for match in _QUESTION.finditer(text)]
    at = splits[-1] if splits else len(text)
    return text[:at], text[at:] + prefix


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of all 13 tasks of the family."""
    return [f"{FAMILY}/{task}" for task in TOKENS]


def ruler(task: str, options: Options) -> Ruler:
    """`ruler/<task>`.

    Raises:
        UsageError: an unknown task or option.
    """
    if task not in TOKENS:
        raise unknown_task(f"{FAMILY}/{task}", names(options))
    return Ruler(task, read_options(RulerOptions, f"{FAMILY}/{task}", options))
