"""`reasoning/arithmetic`: many small steps, each to be written down; one number is the answer.

The reply is long: every step's result is needed for the next, so that a cache which loses what was
written meanwhile loses the thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.records import Example
from pytest_kvbench.tasks.base import Options, TaskOptions, example_id, read_options
from pytest_kvbench.tasks.generated import Generated, Slot
from pytest_kvbench.tasks.haystack import HaystackName, load_haystack, word_costs
from pytest_kvbench.tasks.tokenizers import Tokenizer

NAME = "reasoning/arithmetic"
INSTRUCTION = "Read the text and the steps behind it.\n\n"
STEPS = "\n\nStart with the number {start}.\n{steps}"
ASK = (
    "Work through all {count} steps in order. After each one write a line like "
    '"Step 3: 12 + 7 = 19". Then write "The result is N."'
)
_TOKENS_A_STEP = 24
"""Of a written step, digits of their own included."""


class ReasoningOptions(TaskOptions):
    """Options of `reasoning/arithmetic`: `steps`, with numbers up to `largest`."""

    haystack: HaystackName = "prose"
    steps: int = Field(default=12, ge=2, le=100)
    largest: int = Field(default=20, ge=2, le=1_000)


@dataclass(frozen=True)
class Arithmetic(Generated):
    """Sums and differences in a row, behind a text that does not matter."""

    options: ReasoningOptions
    metric: str = field(default="last_number", kw_only=True)
    instruction: ClassVar[str] = INSTRUCTION
    name = NAME

    @property
    def _shape(self) -> Mapping[str, object]:
        return {"text": [INSTRUCTION, STEPS, ASK], "options": self.options.model_dump()}

    @property
    def max_tokens(self) -> int:
        """New tokens of a reply."""
        return _TOKENS_A_STEP * self.options.steps + 64

    def _costs(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        return word_costs(load_haystack(self.options.haystack), tokenizer)

    def _make(self, slot: Slot, filler: int, costs: Mapping[str, int]) -> Example:
        rng = slot.rng()
        start, steps, result = _chain(rng, self.options.steps, self.options.largest)
        words = load_haystack(self.options.haystack).take(rng, filler, costs)
        context = " ".join(words) + STEPS.format(start=start, steps="\n".join(steps))
        question, answers = ASK.format(count=len(steps)), (str(result),)
        identity = example_id(NAME, question, context, answers)
        return Example(identity, question, context, answers, {"steps": len(steps)})


def _chain(rng: Random, count: int, largest: int) -> tuple[int, list[str], int]:
    """The number to start with, the steps in words, and the result; no value falls below zero."""
    start = value = rng.randint(1, largest)
    steps = []
    for number in range(1, count + 1):
        change = rng.randint(1, largest)
        adds = change > value or rng.random() < 0.6
        value += change if adds else -change
        steps.append(f"Step {number}: {'add' if adds else 'subtract'} {change}.")
    return start, steps, value


def arithmetic(options: Options) -> Arithmetic:
    """The task `reasoning/arithmetic`.

    Raises:
        UsageError: a wrong option.
    """
    return Arithmetic(read_options(ReasoningOptions, NAME, options))
