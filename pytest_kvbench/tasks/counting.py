"""`counting/words`: name the words that are by far the most frequent (after RULER's cwe)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.records import Example
from pytest_kvbench.tasks.base import Options, TaskOptions, example_id, read_options
from pytest_kvbench.tasks.generated import Generated, Slot
from pytest_kvbench.tasks.haystack import load_haystack
from pytest_kvbench.tasks.tokenizers import Tokenizer

NAME = "counting/words"
INSTRUCTION = "Below is a list of words. Some of them are repeated far more often than others.\n\n"
ASK = "Which {count} words are repeated most often in the list? Answer with these words only."
COMMON_SHARE = 0.4
"""Share of the list that the common words take: RULER's cwe has 300 of about 750 at 4k tokens."""


class CountingOptions(TaskOptions):
    """Options of `counting/words`: how many `common` words are asked for."""

    common: int = Field(default=5, ge=1, le=20)


@dataclass(frozen=True)
class Counting(Generated):
    """The task: common words are hidden among rare ones, and are to be named."""

    options: CountingOptions
    instruction: ClassVar[str] = INSTRUCTION
    name = NAME

    @property
    def _shape(self) -> Mapping[str, object]:
        return {"text": [INSTRUCTION, ASK, COMMON_SHARE], "options": self.options.model_dump()}

    @property
    def max_tokens(self) -> int:
        """New tokens of a reply."""
        return 5 * self.options.common + 7

    def _costs(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        words = vocabulary()
        return dict(zip(words, tokenizer.costs([f", {w}" for w in words]), strict=True))

    def _make(self, slot: Slot, filler: int, costs: Mapping[str, int]) -> Example:
        rng = slot.rng()
        words = rng.sample(vocabulary(), len(vocabulary()))
        common = unambiguous(words, self.options.common)
        rare = [w for w in words if not any(c in w or w in c for c in common)]
        # At least three: below that, "far more often" would not be true of a short list.
        repeats = max(3, int(COMMON_SHARE * filler / sum(costs[w] for w in common)))
        left = filler - repeats * sum(costs[w] for w in common)
        listed = common * repeats + _worth(rare, left, costs)
        rng.shuffle(listed)
        context, question = ", ".join(listed), ASK.format(count=len(common))
        identity = example_id(NAME, question, context, common)
        return Example(identity, question, context, tuple(common), {"repeats": repeats})


def _worth(words: list[str], tokens: int, costs: Mapping[str, int]) -> list[str]:
    """Words, over and over, that cost `tokens` tokens at most."""
    spent = itertools.accumulate(costs[word] for word in itertools.cycle(words))
    enough = sum(1 for _ in itertools.takewhile(lambda total: total <= tokens, spent))
    return list(itertools.islice(itertools.cycle(words), enough))


def unambiguous(words: list[str], count: int) -> list[str]:
    """The first `count` words of which none is part of another: a metric looks for substrings."""
    chosen: list[str] = []
    for word in words:
        if len(chosen) < count and not any(word in other or other in word for other in chosen):
            chosen.append(word)
    return chosen


@cache
def vocabulary() -> tuple[str, ...]:
    """English words of 5 to 9 letters, sorted."""
    found = (re.fullmatch(r"([a-z]{5,9})[.,]?", word) for word in load_haystack("prose").words)
    return tuple(sorted({match[1] for match in found if match}))


def words(options: Options) -> Counting:
    """The task `counting/words`.

    Raises:
        UsageError: a wrong option.
    """
    return Counting(read_options(CountingOptions, NAME, options))
