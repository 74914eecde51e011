"""A task whose texts are stored nowhere: its examples carry hashes, its prompts are read anew.

    examples -> hashed, with their ids -> stored -> prompt(hashed) -> the file's own text

For files of a user's: what is generated or published is no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from pytest_kvbench.errors import GuardError, UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.given import Benchmark, GivenData
from pytest_kvbench.tasks.tokenizers import Approximate, Tokenizer
from pytest_kvbench.wire.hashed import hashed

_FIGURES = frozenset({"cut", "length"})
"""Keys of an example's `meta` that are kept: where its prompt is cut, and its source's length."""


@dataclass(frozen=True)
class Unkept:
    """A task as it is stored, and all its examples as they are: see `Task`."""

    task: Task
    every: Callable[[Tokenizer], Iterable[Example]]
    whole: Callable[[BinSpec, Tokenizer, int], Iterable[Example]]
    generated: bool = False

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    @property
    def metric(self) -> str:
        """The task's."""
        return self.task.metric

    @property
    def template_version(self) -> str:
        """The task's."""
        return self.task.template_version

    @property
    def data_version(self) -> str:
        """The task's."""
        return self.task.data_version

    def prompt(self, example: Example) -> Prompt:
        """The prompt of an example, from the data themselves.

        Raises:
            GuardError: the data no longer have it.
        """
        whole = self._originals.get(example.example_id)
        if whole is None:
            raise GuardError(
                f"{self.name}: example {example.example_id} is no longer in the data, and its "
                "text is kept nowhere else (store.texts: hash)",
                "put the file back as it was, or choose and ask anew: --kvbench-force",
            )
        context = whole.context if example.context else ""
        cut = {"cut": example.meta["cut"]} if "cut" in example.meta else {}
        return self.task.prompt(replace(whole, context=context, meta={**whole.meta, **cut}))

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:
        """Every example, its texts as hashes."""
        return list(map(_unread, self.whole(spec, tokenizer, seed)))

    @cached_property
    def _originals(self) -> dict[str, Example]:
        return {e.example_id: e for e in self.every(Approximate())}


def unkept(task: Task) -> Unkept:
    """`task`, whose examples are hashed before anybody keeps them.

    Raises:
        UsageError: its examples are made or published.
    """
    if not isinstance(task, GivenData) or isinstance(task, Benchmark):
        raise UsageError(
            f"store.texts is hash, and {task.name} asks texts that are no secret",
            "valid: keep, or tasks of files of yours (chat:PATH, jsonl:PATH, math:PATH)",
        )
    return Unkept(task, task.every_example, task.stream)


def _unread(example: Example) -> Example:
    """Of `meta` only figures stay; what examples share stays known by its hash."""
    figures = {name: value for name, value in example.meta.items() if name in _FIGURES}
    return Example(
        example_id=example.example_id,
        question=hashed(example.question),
        context=example.context and hashed(example.context),
        answers=tuple(hashed(answer) for answer in example.answers),
        meta={**figures, "cluster": example.cluster},
    )
