"""Prompts cut in the middle to a number of tokens, before any chat template.

An example keeps its whole context, and so its cluster; what is left out stands in `meta["cut"]` as
a span of characters of the whole prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.tokenizers import Tokenizer

_TOGETHER = 256  # examples whose prompts are counted at once


def cut_long_ones(
    examples: Iterable[Example],
    prompt: Callable[[Example], Prompt],
    tokenizer: Tokenizer,
    max_tokens: int | None,
) -> Iterator[Example]:
    """`examples`, those with more tokens than `max_tokens` marked with their cut."""
    rest = iter(examples)
    while some := list(islice(rest, _TOGETHER)):
        if max_tokens is None:
            yield from some
            continue
        cuts = tokenizer.middle_cuts((prompt(example).text for example in some), max_tokens)
        yield from map(_marked, some, cuts)


def _marked(example: Example, cut: tuple[int, int] | None) -> Example:
    if cut is None:
        return example
    return example.noting({**example.meta, "cut": list(cut)})


def apply_cut(prompt: Prompt, example: Example) -> Prompt:
    """`prompt` without what the example's cut leaves out."""
    cut = example.meta.get("cut")
    if not isinstance(cut, list):
        return prompt
    start, end = cut
    split = len(prompt.head)
    head = prompt.head[:start] + prompt.head[end:]
    tail = prompt.tail[: max(0, start - split)] + prompt.tail[max(0, end - split) :]
    return replace(prompt, head=head, tail=tail)
