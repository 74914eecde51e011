"""Text to hide needles in: real prose that every Python ships, or one repeated noise sentence."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from random import Random
from typing import Literal

from pytest_kvbench.tasks.tokenizers import Tokenizer

HaystackName = Literal["prose", "noise"]

NOISE = (
    "The lake lies still under a pale sky. A boat drifts along the shore. "
    "Rain falls, then it stops. Somebody closes a window and it is quiet again."
)


@dataclass(frozen=True)
class Haystack:
    """An endless ring of words."""

    words: tuple[str, ...] = field(repr=False)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Positions at which a sentence begins."""
        return (0, *(i + 1 for i, word in enumerate(self.words[:-1]) if ends_sentence(word)))

    def take(self, rng: Random, tokens: int, costs: Mapping[str, int]) -> list[str]:
        """Words from a random sentence start on that cost about `tokens` tokens, at most."""
        start = rng.choice(self.starts)
        ring = itertools.islice(itertools.cycle(self.words), start, None)
        taken: list[str] = []
        for word in ring:
            tokens -= costs[word]
            if tokens < 0:
                return taken
            taken.append(word)
        raise AssertionError("a ring has no end")


def ends_sentence(word: str) -> bool:
    """Whether a needle may follow this word."""
    return word.endswith((".", "?", "!"))


def word_costs(haystack: Haystack, tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens of each word after a blank: byte-level tokenizers never merge across the blank."""
    distinct = sorted(set(haystack.words))
    counts = tokenizer.costs([f" {word}" for word in distinct])
    return {word: max(1, n) for word, n in zip(distinct, counts, strict=True)}


def hide(words: Sequence[str], needles: Mapping[str, float]) -> str:
    """`words` as text with each needle (a sentence) at its depth, 0 to 1, between sentences."""
    gaps = [0, *(i + 1 for i, word in enumerate(words) if ends_sentence(word))]
    placed: dict[int, list[str]] = {}
    for needle, depth in needles.items():
        placed.setdefault(_nearest(gaps, depth * len(words)), []).append(needle)
    parts = [[*placed.get(i, []), word] for i, word in enumerate(words)]
    return " ".join(itertools.chain(*parts, placed.get(len(words), [])))


def _nearest(gaps: Sequence[int], position: float) -> int:
    after = bisect_left(gaps, position)
    return min(gaps[max(0, after - 1) : after + 1], key=lambda gap: abs(gap - position))


@cache
def load_haystack(name: HaystackName) -> Haystack:
    """The words of a haystack, white space normalised."""
    return Haystack(tuple((NOISE if name == "noise" else _prose()).split()))


def _prose() -> str:
    from pydoc_data.topics import topics

    paragraphs = (p for _, text in sorted(topics.items()) for p in text.split("\n\n"))
    return " ".join(p for p in map(_one_line, paragraphs) if p and _is_prose(p))


def _one_line(paragraph: str) -> str:
    return "" if paragraph.startswith(" ") else " ".join(paragraph.split())


def _is_prose(line: str) -> bool:
    """Whole sentences, mostly letters, and no number that could be taken for a needle."""
    letters = sum(character.isalpha() or character == " " for character in line)
    return (
        line[0].isupper()
        and line.endswith(".")
        and letters >= 0.9 * len(line)
        and not re.search(r"\d{3}", line)
    )
