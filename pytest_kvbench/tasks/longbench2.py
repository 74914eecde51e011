"""`longbench2/NAME`: LongBench v2 (Bai et al., arXiv 2412.15204), 503 multiple-choice questions.

longbench2/all, /easy, /hard, /short, /medium, /long    the questions with their documents
longbench2/no-context                                   without: what the model knows by heart
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import first_character, parse_json, read_text
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.credited import LETTERS
from pytest_kvbench.tasks.base import (
    Options,
    files_digest,
    read_options,
    template_version,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, texts_in
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_file
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.multiple_choice import choice_examples
from pytest_kvbench.tasks.tokenizers import Tokenizer

FAMILY = "longbench2"
VARIABLE = "KVBENCH_LONGBENCH2"
REPO = "zai-org/LongBench-v2"
NO_CONTEXT = "no-context"
SUBSETS: Mapping[str, tuple[str, str] | None] = {
    "all": None,
    "easy": ("difficulty", "easy"),
    "hard": ("difficulty", "hard"),
    "short": ("length", "short"),
    "medium": ("length", "medium"),
    "long": ("length", "long"),
    NO_CONTEXT: None,
}

_OPTIONS = "(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$\n\n"
_SAY = 'Reply with one sentence of this form: "The correct answer is (A)".'
OWN = {
    "0shot.txt": f"Text:\n$DOC$\n\nWhich answer to this question is right? $Q$\n{_OPTIONS}{_SAY}",
    "0shot_no_context.txt": f"Which answer to this question is right? $Q$\n{_OPTIONS}{_SAY}",
}


class LongBench2Options(BenchmarkOptions):
    """Options of `longbench2/*`.

    `path`: the file data.json or a jsonl with its fields, or their folder (else
    `KVBENCH_LONGBENCH2`, else the hub). `max_length`: upstream's is 120000 tokens. `compensated`:
    an unreadable reply counts 0.25. Upstream samples at temperature 0.1.
    """

    max_tokens: int = Field(default=128, ge=1)
    compensated: bool = False
    revision: str = "main"


@dataclass(frozen=True)
class LongBench2(Benchmark):
    """A subset of the questions as a task."""

    variable: ClassVar[str] = VARIABLE
    subset: str
    options: LongBench2Options
    metric: str = "choice"

    @property
    def name(self) -> str:
        """`longbench2/<subset>`."""
        return f"{FAMILY}/{self.subset}"

    @cached_property
    def template_version(self) -> str:
        """Whose wording it is, then the digest of text and options."""
        shaping = self.options.model_dump(include={"max_length", "max_tokens", "compensated"})
        version = template_version(text=self._template, **shaping)
        return f"{'own' if self._template in OWN.values() else 'official'}-{version}"

    @cached_property
    def data_version(self) -> str:
        """The sha256 of the file."""
        return files_digest([self._file])

    def _whole_prompt(self, example: Example) -> Prompt:
        """The template filled in; head and tail part where the document ends."""
        before, document, after = self._template.rpartition("$DOC$")
        tail = after.replace("$Q$", example.question)
        for letter, text in zip(LETTERS, texts_in(example.meta["options"], "options"), strict=True):
            tail = tail.replace(f"$C_{letter}$", text)
        head = before + example.context if document else ""
        return Prompt(head, tail, self.options.max_tokens)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every question of the subset."""
        return map(self._ready, choice_examples(self._rows(), self.name))

    def _ready(self, example: Example) -> Example:
        meta = {**example.meta, "compensated": self.options.compensated}
        context = "" if self.subset == NO_CONTEXT else example.context
        return replace(example, context=context, meta=meta)

    def _rows(self) -> Iterator[Row]:
        wanted = SUBSETS[self.subset]
        for row in choice_rows(self._file):
            if wanted is None or row.get(wanted[0]) == wanted[1]:
                yield row

    @cached_property
    def _file(self) -> Path:
        if self._place is None:
            return hub_file(REPO, "data.json", self.options.revision, VARIABLE)
        return self._place / "data.json" if self._place.is_dir() else self._place

    @cached_property
    def _template(self) -> str:
        """Upstream's `prompts/` beside the data, or our own wording."""
        file = "0shot_no_context.txt" if self.subset == NO_CONTEXT else "0shot.txt"
        if self._place is None:
            return OWN[file]
        official = self._file.parent / "prompts" / file
        return read_text(official) if official.is_file() else OWN[file]


def choice_rows(file: Path) -> Iterator[Row]:
    """Rows of a JSON array (LongBench v2's data.json) or of JSON lines.

    Raises:
        UsageError: no such file, not JSON, or no rows.
    """
    if first_character(file) != "[":
        yield from read_jsonl(file)
        return
    needed = "needed: a JSON array of rows, each an object"
    rows = parse_json(read_text(file), str(file), needed)
    if not rows:
        raise UsageError(f"{file}: holds no row", needed)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UsageError(f"{file}: row {number}: {type(row).__name__}", needed)
        yield row


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of all tasks of the family, a subset each."""
    return [f"{FAMILY}/{subset}" for subset in SUBSETS]


def longbench2(subset: str, options: Options) -> LongBench2:
    """`longbench2/<subset>`.

    Raises:
        UsageError: an unknown subset or option.
    """
    if subset not in SUBSETS:
        raise unknown_task(f"{FAMILY}/{subset}", names(options))
    return LongBench2(subset, read_options(LongBench2Options, f"{FAMILY}/{subset}", options))
