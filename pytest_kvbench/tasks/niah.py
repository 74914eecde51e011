"""Needles in a haystack: find numbers hidden in a long text (after RULER's niah task types).

niah/single      one needle, one question
niah/multikey    several keys, one asked for: the others distract
niah/multivalue  one key with several numbers, all asked for
niah/multiquery  several keys, all asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from pytest_kvbench.records import Example
from pytest_kvbench.tasks.base import Options, TaskOptions, example_id, read_options
from pytest_kvbench.tasks.generated import Generated, Slot
from pytest_kvbench.tasks.haystack import HaystackName, hide, load_haystack, word_costs
from pytest_kvbench.tasks.tokenizers import Tokenizer

Kind = Literal["single", "multikey", "multivalue", "multiquery"]

INSTRUCTION = "Somewhere in the text below, secret numbers are given. Remember them.\n\n"
NEEDLE = "The secret number of {key} is {value}."
ASK_ONE = "What is the secret number of {keys}? Answer with the number only."
ASK_ALL = "What are all the secret numbers of {keys}? Answer with the numbers only."

CITIES = tuple(
    """
    Amsterdam Athens Baghdad Bangkok Barcelona Beijing Berlin Bogota Boston Brussels Bucharest
    Budapest Cairo Calgary Chicago Copenhagen Dakar Dallas Delhi Denver Dublin Edinburgh
    Florence Geneva Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Jerusalem Kabul
    Kyoto Lagos Lima Lisbon London Madrid Manila Melbourne Miami Milan Montreal Moscow Mumbai
    Munich Nairobi Naples Oslo Ottawa Paris Prague Quito Riga Rome Seattle Seoul Sofia Sydney
    Tehran Tokyo Toronto Tunis Vancouver Venice Vienna Warsaw Zagreb Zurich
    """.split()  # noqa: SIM905  # seventy names read better as text
)


class NiahOptions(TaskOptions):
    """Options of the niah tasks: `haystack` is prose or noise, `needles` how many are hidden."""

    haystack: HaystackName = "prose"
    needles: int = Field(default=4, ge=2, le=len(CITIES))


@dataclass(frozen=True)
class Niah(Generated):
    """One of the four retrieval tasks."""

    kind: Kind
    options: NiahOptions
    instruction: ClassVar[str] = INSTRUCTION

    @property
    def name(self) -> str:
        """`niah/<kind>`."""
        return f"niah/{self.kind}"

    @property
    def _shape(self) -> Mapping[str, object]:
        return {
            "kind": self.kind,
            "text": [INSTRUCTION, NEEDLE, ASK_ONE, ASK_ALL],
            "options": self.options.model_dump(),
        }

    @property
    def max_tokens(self) -> int:
        """New tokens of a reply."""
        # Five digits are five tokens to many tokenizers, and a model may repeat the question.
        return 24 if self.kind in {"single", "multikey"} else 48

    def _costs(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        return word_costs(load_haystack(self.options.haystack), tokenizer)

    def _make(self, slot: Slot, filler: int, costs: Mapping[str, int]) -> Example:
        rng = slot.rng()
        needles, keys, answers = self._needles(rng)
        depths = [slot.depth, *(rng.random() for _ in needles[1:])]
        words = load_haystack(self.options.haystack).take(rng, filler, costs)
        context = hide(words, dict(zip(needles, depths, strict=True)))
        ask = ASK_ONE if len(answers) == 1 else ASK_ALL
        question = ask.format(keys=_listed(keys))
        return Example(
            example_id=example_id(self.name, question, context, answers),
            question=question,
            context=context,
            answers=answers,
            meta={"depth": slot.depth, "depths": depths, "keys": list(keys)},
        )

    def _needles(self, rng: Random) -> tuple[list[str], list[str], tuple[str, ...]]:
        """Needle sentences, the keys asked for, and the answers; the first needle is asked for."""
        count = 1 if self.kind == "single" else self.options.needles
        values = [str(value) for value in rng.sample(range(10_000, 100_000), count)]
        keys = rng.sample(CITIES, count)
        if self.kind == "multivalue":
            keys = keys[:1] * count
        needles = [NEEDLE.format(key=k, value=v) for k, v in zip(keys, values, strict=True)]
        asked = 1 if self.kind in {"single", "multikey"} else count
        return needles, list(dict.fromkeys(keys[:asked])), tuple(values[:asked])


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"


def single(options: Options) -> Niah:
    """The task `niah/single`.

    Raises:
        UsageError: a wrong option.
    """
    return Niah("single", read_options(NiahOptions, "niah/single", options))


def multikey(options: Options) -> Niah:
    """The task `niah/multikey`.

    Raises:
        UsageError: a wrong option.
    """
    return Niah("multikey", read_options(NiahOptions, "niah/multikey", options))


def multivalue(options: Options) -> Niah:
    """The task `niah/multivalue`.

    Raises:
        UsageError: a wrong option.
    """
    return Niah("multivalue", read_options(NiahOptions, "niah/multivalue", options))


def multiquery(options: Options) -> Niah:
    """The task `niah/multiquery`.

    Raises:
        UsageError: a wrong option.
    """
    return Niah("multiquery", read_options(NiahOptions, "niah/multiquery", options))
