"""`evidence/mcq`: multiple choice in which the model must quote the text it answers from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.credited import LETTERS, TAU
from pytest_kvbench.tasks.base import Options, files_digest, read_options, template_version
from pytest_kvbench.tasks.columns import texts_in
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.longbench2 import choice_rows
from pytest_kvbench.tasks.multiple_choice import choice_examples
from pytest_kvbench.tasks.tokenizers import Tokenizer

NAME = "evidence/mcq"
VARIABLE = "KVBENCH_MCQ"
CARD_TOKENS = 15

CARDS = "Cards:\n{cards}\n\n"
TEXT = "Text:\n{context}"
ASK = (
    "\n\nQuestion: {question}\n{options}\n\n"
    "Choose the right option and copy the words of the text that prove it. Answer with one JSON "
    'object and nothing else: {{"choice": "A", "quotes": ["..."]}}. {card}'
    'If the text does not tell, answer {{"choice": "IDK", "quotes": []}}.'
)
CARD_FIRST = "The first quote must be the card of your choice. "


class EvidenceOptions(BenchmarkOptions):
    """Options of `evidence/mcq`.

    `path`: a jsonl or LongBench v2's data.json (else `KVBENCH_MCQ`). `cards`: each option gets a
    support card of at most 15 tokens, which stands before the text and must be cited first. `tau`:
    share of the support's words that quotes must cover. `max_length`: longest prompt in tokens.
    """

    cards: bool = False
    tau: float = Field(default=TAU, gt=0, le=1)
    max_tokens: int = Field(default=192, ge=1)


@dataclass(frozen=True)
class EvidenceChoice(Benchmark):
    """Questions of any multiple-choice data, with citations asked for."""

    variable: ClassVar[str] = VARIABLE
    options: EvidenceOptions
    name: str = NAME
    metric: Literal["credited"] = "credited"

    @cached_property
    def template_version(self) -> str:
        """Digest of wording and options."""
        shaping = self.options.model_dump(exclude={"path"})
        return template_version(text=[CARDS, TEXT, ASK, CARD_FIRST], **shaping)

    @cached_property
    def data_version(self) -> str:
        """The sha256 of the file."""
        return files_digest([self._file])

    def _whole_prompt(self, example: Example) -> Prompt:
        """Cards, where asked for, and text; then question, options and what to reply."""
        cards = (
            CARDS.format(cards=_listed(texts_in(example.meta["cards"], "cards")))
            if self.options.cards
            else ""
        )
        head = cards + TEXT.format(context=example.context)
        tail = ASK.format(
            question=example.question,
            options=_listed(texts_in(example.meta["options"], "options")),
            card=CARD_FIRST if self.options.cards else "",
        )
        return Prompt(head, tail, self.options.max_tokens)

    def every_example(self, tokenizer: Tokenizer) -> Iterable[Example]:
        """Every question of the file, with its cards where they are asked for."""
        made = list(choice_examples(choice_rows(self._file), NAME))
        cards: Iterable[list[str]] = itertools.repeat([])
        if self.options.cards:
            cards = _cards([_shown(example) for example in made], tokenizer)
        return (self._ready(example, four) for example, four in zip(made, cards, strict=False))

    def _ready(self, example: Example, cards: list[str]) -> Example:
        meta = {**example.meta, "tau": self.options.tau}
        meta.pop("cards", None)
        return replace(example, meta=meta | ({"cards": cards} if cards else {}))

    @property
    def _file(self) -> Path:
        if self._place is None:
            raise UsageError(
                f"{NAME} needs a file with questions",
                f"set {VARIABLE} or task_options: {{{NAME}: {{path: FILE}}}} to a jsonl of "
                "question, context, choices, answer, or to LongBench v2's data.json",
            )
        return self._place


def _listed(texts: list[str]) -> str:
    return "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, texts, strict=True))


def _shown(example: Example) -> list[str]:
    """The four texts from which the cards of an example are made."""
    meta = example.meta
    return texts_in(meta.get("cards") or meta.get("support") or meta["options"], "options")


def _cards(examples: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[list[str]]:
    """Of each text the longest run of first words with at most 15 tokens; one word at least."""
    runs = [[_runs(text) for text in texts] for texts in examples]
    counts = iter(tokenizer.costs([run for four in runs for some in four for run in some]))
    return [[_longest([(run, next(counts)) for run in some]) for some in four] for four in runs]


def _runs(text: str) -> list[str]:
    words = text.split()[:CARD_TOKENS]
    return [" ".join(words[:n]) for n in range(1, len(words) + 1)]


def _longest(counted: Sequence[tuple[str, int]]) -> str:
    fitting = [run for run, tokens in counted if tokens <= CARD_TOKENS]
    return max(fitting, key=len, default=counted[0][0] if counted else "")


def mcq(options: Options) -> EvidenceChoice:
    """The task `evidence/mcq`.

    Raises:
        UsageError: a wrong option.
    """
    return EvidenceChoice(read_options(EvidenceOptions, NAME, options))
