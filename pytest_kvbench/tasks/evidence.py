"""`evidence/mcq`: multiple choice in which the model must quote the text it answers from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.evidence import LETTERS, TAU
from pytest_kvbench.tasks.base import TaskOptions, files_digest, read_options, template_version
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.cutting import apply_cut, cut_long_ones
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


class EvidenceOptions(TaskOptions):
    """Options of `evidence/mcq`.

    `path`: a jsonl or LongBench v2's data.json (else `KVBENCH_MCQ`). `cards`: each option gets a
    support card of at most 15 tokens, which stands before the text and must be cited first. `tau`:
    share of the support's words that quotes must cover. `max_length`: longest prompt in tokens.
    """

    path: str | None = None
    cards: bool = False
    tau: float = Field(default=TAU, gt=0, le=1)
    max_length: int | None = Field(default=None, ge=2)
    max_tokens: int = Field(default=192, ge=1)


@dataclass(frozen=True)
class EvidenceChoice:
    """Questions of any multiple-choice data, with citations asked for."""

    options: EvidenceOptions
    name: str = NAME
    metric: Literal["credited"] = "credited"
    generated: bool = False

    @cached_property
    def template_version(self) -> str:
        """Digest of wording and options."""
        shaping = self.options.model_dump(exclude={"path"})
        return template_version(text=[CARDS, TEXT, ASK, CARD_FIRST], **shaping)

    @cached_property
    def data_version(self) -> str:
        """The sha256 of the file."""
        return files_digest([self._file])

    def prompt(self, example: Example) -> Prompt:
        """Cards, where asked for, and text; then question, options and what to reply."""
        cards = CARDS.format(cards=_listed(example.meta["cards"])) if self.options.cards else ""
        head = cards + TEXT.format(context=example.context)
        tail = ASK.format(
            question=example.question,
            options=_listed(example.meta["options"]),
            card=CARD_FIRST if self.options.cards else "",
        )
        return apply_cut(Prompt(head, tail, self.options.max_tokens), example)

    def examples(self, spec: BinSpec, tokenizer: Tokenizer, seed: int) -> list[Example]:  # noqa: ARG002  # the data decides
        """Every question."""
        made = choice_examples(choice_rows(self._file), NAME)
        ready = [self._ready(example, tokenizer) for example in made]
        return cut_long_ones(ready, self.prompt, tokenizer, self.options.max_length)

    def _ready(self, example: Example, tokenizer: Tokenizer) -> Example:
        meta = {**example.meta, "tau": self.options.tau}
        meta.pop("cards", None)
        if self.options.cards:
            given = example.meta.get("cards") or example.meta.get("support")
            meta["cards"] = [_card(t, tokenizer) for t in given or example.meta["options"]]
        return replace(example, meta=meta)

    @property
    def _file(self) -> Path:
        given = self.options.path or os.environ.get(VARIABLE)
        if not given:
            raise UsageError(
                f"{NAME} needs a file with questions",
                f"set {VARIABLE} or task_options: {{{NAME}: {{path: FILE}}}} to a jsonl of "
                "question, context, choices, answer, or to LongBench v2's data.json",
            )
        return Path(given).expanduser()


def _listed(texts: list[str]) -> str:
    return "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, texts, strict=True))


def _card(text: str, tokenizer: Tokenizer) -> str:
    """The longest run of first words with at most 15 tokens; one word at least."""
    words = text.split()[:CARD_TOKENS]
    runs = [" ".join(words[:n]) for n in range(1, len(words) + 1)]
    fitting = [r for r, n in zip(runs, tokenizer.count(runs), strict=True) if n <= CARD_TOKENS]
    return max(fitting, key=len, default=runs[0] if runs else "")


def mcq(options: Mapping[str, Any]) -> EvidenceChoice:
    """`evidence/mcq`."""
    return EvidenceChoice(read_options(EvidenceOptions, NAME, options))
