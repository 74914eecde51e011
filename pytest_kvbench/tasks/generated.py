"""Making prompts of a wanted length: what all generated tasks share.

A task says how an example looks for a given amount of filler; `fit` finds the amount. Token counts
come in few batches, so that 25 prompts of 2,000 tokens take a fraction of a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.base import seeded, template_version
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.tokenizers import Tokenizer


@dataclass(frozen=True)
class Slot:
    """One example to make.

    `low <= tokens < high` must hold for its prompt; `target` lies between. `depth` (0 to 1) is
    where its needle goes. `source` seeds everything else about it.
    """

    low: int
    high: int
    target: int
    depth: float
    source: tuple[str | int, ...]

    def rng(self) -> Random:
        """A fresh generator: the same draws each time the example is made."""
        return seeded(*self.source)


Maker = Callable[[Slot, int], Example]
"""Makes the example of a slot with about this many tokens of filler."""


def slots(task: str, spec: BinSpec, seed: int) -> list[Slot]:
    """The examples that `spec` asks for, depths spread evenly within a bin.

    Depths and lengths are spread independently, so that depth is not confounded with length.
    """
    made: list[Slot] = []
    for current in spec.generated_bins():
        count, low, high = spec.wanted(current.index), current.low or 1, current.high or 1
        rng = seeded(task, seed, "lengths", low, high, count)
        order = rng.sample(range(count), count)
        for i, place in enumerate(order):
            # The outer tenths are left free: small corrections must not cross an edge.
            share = 0.1 + 0.8 * (place + rng.random()) / count
            target = low + int(share * (high - low))
            source = (task, seed, low, high, count, i)
            made.append(Slot(low, high, target, (i + 0.5) / count, source))
    return made


def fit(
    task: str,
    wanted: Sequence[Slot],
    make: Maker,
    prompt: Callable[[Example], Prompt],
    tokenizer: Tokenizer,
) -> list[Example]:
    """Make every slot's example with a prompt inside its bin.

    Raises:
        UsageError: a bin that the task cannot hit: its fixed text is longer, or it is too narrow.
    """
    fixed = tokenizer.costs([prompt(make(slot, 0)).text for slot in wanted])
    filler = [slot.target - tokens for slot, tokens in zip(wanted, fixed, strict=True)]
    examples = [make(slot, max(0, n)) for slot, n in zip(wanted, filler, strict=True)]
    pending = list(range(len(wanted)))
    for _ in range(tokenizer.tries):  # before a bin is called too narrow
        counts = _counts([examples[i] for i in pending], prompt, tokenizer)
        misses = {
            i: wanted[i].target - tokens
            for i, tokens in zip(pending, counts, strict=True)
            if not wanted[i].low <= tokens < wanted[i].high
        }
        if not misses:
            return examples
        for i, missing in misses.items():
            filler[i] += missing
            examples[i] = make(wanted[i], max(0, filler[i]))
        pending = list(misses)
    raise _cannot_fill(task, wanted[pending[0]], fixed[pending[0]])


def _counts(
    examples: Sequence[Example], prompt: Callable[[Example], Prompt], tokenizer: Tokenizer
) -> list[int]:
    return tokenizer.count([prompt(example).text for example in examples])


def _cannot_fill(task: str, slot: Slot, fixed: int) -> UsageError:
    return UsageError(
        f"{task} cannot make a prompt of {slot.low} to {slot.high - 1} tokens: "
        f"without any filler it has {fixed}",
        "raise bins.range (or bins.edges), or make the bins wider",
    )


@dataclass(frozen=True, kw_only=True)
class Generated(ABC):
    """A task whose examples are made: an instruction, a text with answers in it, a question."""

    metric: str = "all_of"
    generated: bool = True
    data_version: str = ""
    instruction: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """As written in an experiment."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """New tokens of a reply."""

    @property
    @abstractmethod
    def _shape(self) -> Mapping[str, object]:
        """What shapes a prompt beside the length of its reply: the wording and the options."""

    @cached_property
    def template_version(self) -> str:
        """Digest of all that shapes a prompt."""
        return template_version(max_tokens=self.max_tokens, **self._shape)

    @abstractmethod
    def _costs(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        """Tokens of each word of the filler."""

    @abstractmethod
    def _make(self, slot: Slot, filler: int, costs: Mapping[str, int]) -> Example:
        """The example of a slot with about `filler` tokens of filler."""

    def prompt(self, example: Example) -> Prompt:
        """Instruction and text, then the question."""
        head = self.instruction + example.context
        return Prompt(head, f"\n\n{example.question}", self.max_tokens)

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:
        """Exactly what the bins ask for, each with its own text."""
        costs = self._costs(tokenizer)

        def make(slot: Slot, filler: int) -> Example:
            return self._make(slot, filler, costs)

        return fit(self.name, slots(self.name, spec, seed), make, self.prompt, tokenizer)
