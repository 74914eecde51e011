"""The texts of RULER's 13 tasks, made from a seed (Hsieh et al., arXiv 2404.06654; synthetic.yaml).

Counts, kinds of keys and values, and how things are spread are RULER's; the words are ours: for its
essays our prose, for its noise ours, for its word lists the words of our prose.
"""

from __future__ import annotations

import itertools
import string
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from pytest_kvbench.tasks.counting import unambiguous, vocabulary
from pytest_kvbench.tasks.haystack import HaystackName, hide, load_haystack

Kind = Literal["words", "numbers", "uuids"]
Costs = Mapping[str, int]

DEPTHS = tuple(round(100 * i / 39) / 100 for i in range(40))
"""Where a needle may go: RULER's 40 places from the first sentence to the last."""

LINE = "a line"
"""In `Costs`: tokens of what a text is made of, where that is not words."""


@dataclass(frozen=True)
class Needles:
    """What RULER hides: its haystack (`needle`: others like it), kinds and numbers of needles."""

    haystack: HaystackName | Literal["needle"]
    key: Kind = "words"
    value: Kind = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def is_one(self) -> bool:
        """Whether one value is asked for."""
        return self.values * self.queries == 1


@dataclass(frozen=True)
class Text:
    """A text, what its question names, and the answers; depths (0 to 1) of what is asked for."""

    context: str
    answers: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    depths: tuple[float, ...] = ()


def needles(
    what: Needles, sentence: str, rng: Random, depth: float, filler: int, costs: Costs
) -> Text:
    """Keys with values in a haystack of about `filler` tokens, the first needle at `depth`."""
    keys = [something(what.key, rng) for _ in range(max(what.keys, what.queries))]
    values = {key: [something(what.value, rng) for _ in range(what.values)] for key in keys}
    hidden = [(key, value) for key in keys for value in values[key]]
    depths = [_nearest(depth), *rng.sample(DEPTHS, len(hidden) - 1)]
    told = [sentence.format(type_needle_v=what.value, key=k, value=v) for k, v in hidden]
    if what.haystack == "needle":
        others = lines(what, sentence, rng, filler // costs[LINE])
        context = "\n".join(_inserted(others, told, depths))
    else:
        words = load_haystack(what.haystack).take(rng, filler, costs)
        context = hide(words, dict(zip(told, depths, strict=True)))
    asked = keys[: what.queries]
    answers = tuple(value for key in asked for value in values[key])
    fields = {"query": _listed(asked), "type_needle_v": what.value}
    return Text(context, answers, fields, tuple(depths[: len(answers)]))


def something(kind: Kind, rng: Random) -> str:
    """A key or value: two words, a number of seven digits, or a random UUID."""
    if kind == "numbers":
        return str(rng.randint(1_000_000, 9_999_999))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return "-".join(rng.sample(vocabulary(), 2))


def lines(what: Needles, sentence: str, rng: Random, count: int) -> list[str]:
    """Needles that nobody asks for."""
    return [
        sentence.format(
            type_needle_v=what.value, key=something(what.key, rng), value=something(what.value, rng)
        )
        for _ in range(count)
    ]


def _inserted(lines: Sequence[str], told: Sequence[str], depths: Sequence[float]) -> list[str]:
    placed = [(round(depth * len(lines)), text) for depth, text in zip(depths, told, strict=True)]
    parts = [*enumerate(lines, start=1), *((at + 0.5, text) for at, text in placed)]
    return [text for _, text in sorted(parts, key=lambda part: part[0])]


def _nearest(depth: float) -> float:
    return min(DEPTHS, key=lambda place: abs(place - depth))


def _listed(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"


def chain(rng: Random, filler: int, costs: Costs, hops: int = 4) -> Text:
    """`vt`: a variable gets a number, and each next one the value of the one before, in noise."""
    names: dict[str, None] = {}
    while len(names) <= hops:
        names["".join(rng.choices(string.ascii_uppercase, k=5))] = None
    value = str(rng.randint(10_000, 99_999))
    steps = [value, *(f"VAR {name}" for name in names)]
    told = [f"VAR {name} = {source}." for name, source in zip(names, steps, strict=False)]
    words = load_haystack("noise").take(rng, filler, costs)
    depths = tuple(sorted(rng.random() for _ in told))
    context = hide(words, dict(zip(told, depths, strict=True)))
    return Text(context, tuple(names), {"query": value, "num_v": str(len(names))}, depths)


def common_words(rng: Random, filler: int, costs: Costs, count: int = 10) -> Text:
    """`cwe`: a numbered list, `count` words 30 times and the others 3 times.

    Where so many do not fit, the common ones are two fifths of the list all the same.
    """
    words = rng.sample(vocabulary(), len(vocabulary()))
    common = unambiguous(words, count)
    rare = [word for word in words if not any(c in word or word in c for c in common)]
    total = max(3 * count, filler // costs[LINE])
    often = max(2, min(30, int(0.4 * total / count)))
    seldom = 3 if often == 30 else 1
    others = itertools.islice(itertools.cycle(rare), max(0, (total - often * count) // seldom))
    listed = [*common * often, *(word for word in others for _ in range(seldom))]
    rng.shuffle(listed)
    context = " ".join(f"{number}. {word}" for number, word in enumerate(listed, start=1))
    return Text(context, tuple(common))


def coded_words(rng: Random, filler: int, costs: Costs, alpha: float = 2.0) -> Text:
    """`fwe`: made-up words whose frequencies fall as rank ** -alpha; dots take the first rank."""
    total = max(30, filler // costs[LINE])
    words = ["...", *made_up(rng, max(20, total // 50))]
    shares = [rank**-alpha for rank in range(1, len(words) + 1)]
    counts = [round(total * share / sum(shares)) for share in shares]
    # The three asked for are told apart at any length.
    counts[1:4] = [max(least, n) for least, n in zip((4, 3, 2), counts[1:4], strict=True)]
    listed = [word for word, times in zip(words, counts, strict=True) for _ in range(times)]
    rng.shuffle(listed)
    return Text(" ".join(listed), tuple(words[1:4]))


def made_up(rng: Random, count: int) -> list[str]:
    """Words of six letters that do not exist, each once."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(string.ascii_lowercase, k=6))] = None
    return list(words)


@dataclass(frozen=True)
class Question:
    """A question of SQuAD or HotpotQA, with the documents that answer it."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]


def documents(asked: Question, pool: Sequence[str], rng: Random, filler: int, costs: Costs) -> Text:
    """`qa_*`: the question's documents among others of the file, in any order, numbered."""
    chosen = list(asked.documents)
    for document in rng.sample(pool, len(pool)):
        if document not in asked.documents:
            filler -= costs[document]
            if filler < 0:
                break
            chosen.append(document)
    rng.shuffle(chosen)
    places = [chosen.index(document) / len(chosen) for document in asked.documents]
    numbered = (f"Document {number}:\n{text}" for number, text in enumerate(chosen, start=1))
    return Text("\n\n".join(numbered), asked.answers, {"query": asked.text}, tuple(places))
