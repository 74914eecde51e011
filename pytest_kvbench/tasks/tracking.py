"""`tracking/variables`: follow chains of assignments through a text (after RULER's vt)."""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.records import Example
from pytest_kvbench.tasks.base import Options, TaskOptions, example_id, read_options
from pytest_kvbench.tasks.generated import Generated, Slot
from pytest_kvbench.tasks.haystack import HaystackName, hide, load_haystack, word_costs
from pytest_kvbench.tasks.tokenizers import Tokenizer

NAME = "tracking/variables"
INSTRUCTION = (
    "The text below gives values to variables. A variable may get a number, or the value of "
    "another variable. Keep track of them.\n\n"
)
NUMBER = "Variable {name} gets the number {value}."
COPY = "Variable {name} gets the value of variable {source}."
ASK = (
    "Which variables have the value {value}, directly or through other variables? "
    "There are {count}. Answer with their names only."
)


class TrackingOptions(TaskOptions):
    """Options of `tracking/variables`: `chains` of one number and `hops` copies each."""

    haystack: HaystackName = "prose"
    chains: int = Field(default=1, ge=1, le=50)
    hops: int = Field(default=4, ge=0, le=50)


@dataclass(frozen=True)
class Tracking(Generated):
    """Name every variable that holds a number; other chains distract."""

    options: TrackingOptions
    instruction: ClassVar[str] = INSTRUCTION
    name = NAME

    @property
    def _shape(self) -> Mapping[str, object]:
        return {"text": [INSTRUCTION, NUMBER, COPY, ASK], "options": self.options.model_dump()}

    @property
    def max_tokens(self) -> int:
        """New tokens of a reply."""
        # A name of five capital letters takes up to five tokens, and a separator.
        return 6 * (self.options.hops + 1) + 2

    def _costs(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        return word_costs(load_haystack(self.options.haystack), tokenizer)

    def _make(self, slot: Slot, filler: int, costs: Mapping[str, int]) -> Example:
        rng = slot.rng()
        size = self.options.hops + 1
        names = _names(rng, self.options.chains * size)
        values = [str(v) for v in rng.sample(range(10_000, 100_000), self.options.chains)]
        needles: dict[str, float] = {}
        for i, value in enumerate(values):
            chain = _chain(names[i * size : (i + 1) * size], value)
            needles |= dict(zip(chain, sorted(rng.random() for _ in chain), strict=True))
        words = load_haystack(self.options.haystack).take(rng, filler, costs)
        context, answers = hide(words, needles), tuple(names[:size])
        question = ASK.format(value=values[0], count=size)
        meta = {"depth": slot.depth, "depths": list(needles.values())[:size], "value": values[0]}
        identity = example_id(NAME, question, context, answers)
        return Example(identity, question, context, answers, meta)


def _chain(names: list[str], value: str) -> list[str]:
    copies = [COPY.format(name=b, source=a) for a, b in itertools.pairwise(names)]
    return [NUMBER.format(name=names[0], value=value), *copies]


def _names(rng: Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choices(string.ascii_uppercase, k=5))] = None
    return list(names)


def variables(options: Options) -> Tracking:
    """The task `tracking/variables`.

    Raises:
        UsageError: a wrong option.
    """
    return Tracking(read_options(TrackingOptions, NAME, options))
