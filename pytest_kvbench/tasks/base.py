"""What a task is, and what all tasks share: identity, options, seeded randomness."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import brief, open_file, refuse_yes
from pytest_kvbench.records import Example, Prompt, digest
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.tokenizers import Tokenizer


class Task(Protocol):
    """A named data set, prompt template and metric."""

    @property
    def name(self) -> str:
        """As written in an experiment."""

    @property
    def metric(self) -> str:
        """A key of `score.METRICS`."""

    @property
    def template_version(self) -> str:
        """Digest of the template's text and options: other version, other answers."""

    @property
    def data_version(self) -> str:
        """Digest of the data that the examples are chosen from; "" where they are made.

        Raises:
            UsageError: the data are not here.
        """

    @property
    def generated(self) -> bool:
        """Whether `examples` makes what the bins ask for; else it returns the whole data set."""

    def prompt(self, example: Example) -> Prompt:
        """The prompt of an example: head, tail, the most new tokens, stops, chat or plain."""

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:
        """The examples to choose from, in a fixed order.

        Args:
            spec: the bins that are to be filled.
            tokenizer: what measures a prompt.
            seed: of examples that are made.

        Raises:
            UsageError: the data are not here, or do not fit the task.
        """


Options = Mapping[str, object]
"""A task's options as the experiment has them: JSON, checked by the task's `TaskOptions`."""


class TaskOptions(BaseModel):
    """Base of a task's options: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_yes(value, cls.model_fields[str(info.field_name)].annotation)


OptionsT = TypeVar("OptionsT", bound=TaskOptions)


def read_options(kind: type[OptionsT], task: str, given: Options) -> OptionsT:
    """The options of a task as a frozen object.

    Raises:
        UsageError: unknown keys and wrong values, with the valid keys.
    """
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        valid = ", ".join(kind.model_fields) or "none"
        raise UsageError(
            f"tasks.{task}.{key}: {brief(first['input'])}: {first['msg']}",
            f"valid options: {valid}",
        ) from error


def unknown_task(name: str, valid: Sequence[str], hint: str = "") -> UsageError:
    """The refusal of a task name: the nearest valid ones first, then all."""
    by_lower = {task.lower(): task for task in valid}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    near = [by_lower[task] for task in close]
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown task {name!r}.{guess}", f"valid: {', '.join(valid)}{hint}")


def example_id(
    task: str, question: str, context: str, answers: Sequence[str], source: str = ""
) -> str:
    """Identity of an example: 16 hex digits of the sha256 of its content and its source's id."""
    return digest([task, source, question, context, list(answers)])[:16]


def template_version(**parts: object) -> str:
    """Twelve hex digits of the sha256 of everything that shapes a prompt."""
    return digest(parts)[:12]


def files_digest(files: Sequence[Path]) -> str:
    """Digest of the content of files, wherever they lie.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        return digest([_sha256(file) for file in files])
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}", "check the path"
        ) from error


def _sha256(file: Path) -> str:
    with open_file(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seeded(*parts: object) -> random.Random:
    """A random generator that depends on `parts` alone, the same on every machine."""
    return random.Random(digest(list(parts)))  # noqa: S311  # makes data, protects nothing
