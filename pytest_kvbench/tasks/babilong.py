"""`babilong/NAME`: BABILong (Kuratov et al., arXiv 2406.10149): bAbI's facts hidden in books.

Files are the hub's `data/qa1/4k.json`, under any folder. Prompts are the authors' where their
`prompts.py` lies beside the data, else our own, which give no examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.base import (
    Options,
    example_id,
    files_digest,
    read_options,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, answers_of, text_of
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_file
from pytest_kvbench.tasks.longbench2 import choice_rows
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.tasks.wording import Wording, constants
from pytest_kvbench.wire import sound

FAMILY = "babilong"
VARIABLE = "KVBENCH_BABILONG"
REPO = "RMT-team/babilong"

_PLACES = "bathroom bedroom garden hallway kitchen office"
_YES_NO = "no yes"
LABELS: Mapping[str, tuple[str, ...]] = {
    task: tuple(labels.split())
    for task, labels in {
        **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), _PLACES),
        "qa5": "Bill Fred Jeff Mary apple football milk",
        "qa6": _YES_NO,
        "qa7": "none one three two",
        "qa8": "apple football milk nothing",
        "qa9": _YES_NO,
        "qa10": "maybe no yes",
        **dict.fromkeys(("qa11", "qa12", "qa13"), _PLACES),
        "qa14": "bedroom cinema kitchen office park school",
        "qa15": "cat mouse sheep wolf",
        "qa16": "gray green white yellow",
        "qa17": _YES_NO,
        "qa18": _YES_NO,
        "qa19": "e,e e,n e,s n,e n,n n,w s,e s,s s,w w,n w,s w,w",
        "qa20": "bedroom bored garden hungry kitchen thirsty tired",
    }.items()
}
"""Task -> all that may be answered (TASK_LABELS of babilong/metrics.py)."""

_OWN = (
    "Facts are scattered over the long text below. Answer the question from these facts alone; "
    "where they change, the latest count.\n\n{{context}}\n\nQuestion: {{question}}\n"
    "Answer with one of: {labels}."
)
_TEMPLATES = ("instruction", "examples", "post_prompt")


class BabilongOptions(BenchmarkOptions):
    """Options of `babilong/*`.

    `path`: the folder with `qa1/4k.json` and the like, or one such file (else `KVBENCH_BABILONG`,
    else the hub). `lengths`: which of BABILong's lengths, in tokens of GPT-2. `max_length`: tokens
    of the longest prompt. `chat`: whether the chat template is applied.
    """

    lengths: tuple[str, ...] = Field(default=("4k",), min_length=1)
    max_tokens: int = Field(default=20, ge=1)
    chat: bool = True
    revision: str = "main"


@dataclass(frozen=True)
class Babilong(Benchmark):
    """One of the twenty tasks."""

    variable: ClassVar[str] = VARIABLE
    task: str
    options: BabilongOptions
    metric: str = "one_label"

    @property
    def name(self) -> str:
        """`babilong/<task>`."""
        return f"{FAMILY}/{self.task}"

    @property
    def shared_meta(self) -> Mapping[str, object]:
        """What every example's `meta` has: the labels of the task."""
        return {"labels": list(LABELS[self.task])}

    @cached_property
    def template_version(self) -> str:
        """Whose wording it is, then the digest of text and options."""
        shaping = self.options.model_dump(include={"max_tokens", "chat", "max_length"})
        return self._wording.version(**shaping)

    @cached_property
    def data_version(self) -> str:
        """The digest of the files of all lengths asked for."""
        return files_digest([file for _, file in self._files])

    def _whole_prompt(self, example: Example) -> Prompt:
        """The template filled in; head and tail part where the text ends."""
        fields = {"question": example.question}
        head, tail = self._wording.parts(example.context, fields)
        return Prompt(head, tail, self.options.max_tokens, self.options.chat)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every row of every length asked for."""
        for length, file in self._files:
            for number, row in enumerate(choice_rows(file), start=1):
                try:
                    yield self._example(row, length)
                except ValueError as error:
                    raise UsageError(
                        f"{file}: row {number}: {error}", "needed: input, question, target"
                    ) from error

    def _example(self, row: Row, length: str) -> Example:
        context, question = text_of(row, "input").strip(), text_of(row, "question")
        answers = answers_of(row.get("target"))
        identity = example_id(FAMILY, question, context, answers)
        meta = {**self.shared_meta, "question": question, "babilong": length}
        return Example(identity, question, context, answers, meta)

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        return [(length, self._file(length)) for length in self.options.lengths]

    def _file(self, length: str) -> Path:
        name = f"{self.task}/{length}.json"
        if self._place is None:
            return hub_file(REPO, f"data/{name}", self.options.revision, VARIABLE)
        return _within(self._place, name) if self._place.is_dir() else self._place

    @cached_property
    def _wording(self) -> Wording:
        found = constants(self._place, "prompts.py", "babilong/prompts.py")
        parts = sound.fields(sound.fields(found.get("DEFAULT_PROMPTS")).get(self.task))
        layout = [found.get(name) for name in ("TASK_TEMPLATE", "USER_TEMPLATE")]
        if not all(layout) or not all(name in parts for name in _TEMPLATES):
            return Wording(_OWN.format(labels=", ".join(LABELS[self.task])))
        whole = "\n\n".join(map(str, layout))
        for name in _TEMPLATES:
            whole = whole.replace(f"{{{name}}}", str(parts[name]))
        return Wording(whole.strip(), official=True)


def _within(place: Path, name: str) -> Path:
    """The file of that name, itself or as JSON lines, in a folder or anywhere below it."""
    found = sorted(file for ending in ("", "l") for file in place.rglob(f"{name}{ending}"))
    if not found:
        raise UsageError(
            f"no file {name} in {place}", "task_options: {babilong: {lengths: [...]}} names others"
        )
    return found[0]


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of all tasks of the family."""
    return [f"{FAMILY}/{task}" for task in LABELS]


def babilong(task: str, options: Options) -> Babilong:
    """`babilong/<task>`.

    Raises:
        UsageError: an unknown task or option.
    """
    if task not in LABELS:
        raise unknown_task(f"{FAMILY}/{task}", names(options))
    return Babilong(task, read_options(BabilongOptions, f"{FAMILY}/{task}", options))
