"""What tasks of given data share: every row is an example, and long prompts are cut in the middle.

Their counterpart is `generated`, whose examples are made to fill the bins.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.base import TaskOptions, files_digest
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.cutting import apply_cut, cut_long_ones
from pytest_kvbench.tasks.shelf import Shelf
from pytest_kvbench.tasks.tokenizers import Tokenizer


class GivenData(ABC):
    """A task whose data are there already."""

    @property
    @abstractmethod
    def max_length(self) -> int | None:
        """Tokens of the longest prompt; None: any number."""

    @property
    def generated(self) -> bool:
        """False: examples are chosen from the data, none is made."""
        return False

    @abstractmethod
    def every_example(self, tokenizer: Tokenizer) -> Iterable[Example]:
        """The example of every row, in the data's order.

        Raises:
            UsageError: the data are not here, or a row lacks a field.
        """

    @abstractmethod
    def _whole_prompt(self, example: Example) -> Prompt:
        """What would be sent for an example if no prompt were too long."""

    def prompt(self, example: Example) -> Prompt:
        """The template filled in, without the middle that the example's cut leaves out."""
        return apply_cut(self._whole_prompt(example), example)

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:
        """Every row's example; those of more than `max_length` tokens carry their cut.

        Raises:
            UsageError: the data are not here, or a row lacks a field.
        """
        return list(map(Shelf().put, self.stream(spec, tokenizer, seed)))

    def stream(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> Iterable[Example]:  # noqa: ARG002
        """`examples`, one after the other and nowhere else: together they may be gigabytes."""
        every = self.every_example(tokenizer)
        return cut_long_ones(every, self.prompt, tokenizer, self.max_length)


class OneFile(GivenData):
    """A task in one file of a user's, named by a prefix and its path."""

    prefix: ClassVar[str]
    path: Path

    @property
    def name(self) -> str:
        """`<prefix>PATH`."""
        return f"{self.prefix}{self.path.as_posix()}"

    @cached_property
    def data_version(self) -> str:
        """The digest of the file."""
        return files_digest([self.path])


class BenchmarkOptions(TaskOptions):
    """Options that all benchmarks share.

    `path`: where the data are, else what the benchmark's environment variable names. `max_length`:
    tokens of the longest prompt.
    """

    path: str | None = None
    max_length: int | None = Field(default=None, ge=2)


class Benchmark(GivenData):
    """A published benchmark, whose files are the user's or the hub's."""

    variable: ClassVar[str]
    """The environment variable that names its data."""
    options: BenchmarkOptions

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest prompt, as the option says; None: any number."""
        return self.options.max_length

    @property
    def _place(self) -> Path | None:
        """Where the user's copy of the data is; None where none is named."""
        named = self.options.path or os.environ.get(self.variable)
        return Path(named).expanduser() if named else None
