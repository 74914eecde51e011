"""Prompts cut in the middle to a number of tokens, before any chat template.

An example keeps its whole context, and so its cluster; what is left out stands in `meta["cut"]` as
a span of characters of the whole prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks.tokenizers import Tokenizer


def cut_long_ones(
    examples: Iterable[Example],
    prompt: Callable[[Example], Prompt],
    tokenizer: Tokenizer,
    max_tokens: int | None,
) -> list[Example]:
    """`examples`, those with more tokens than `max_tokens` marked with their cut."""
    if max_tokens is None:
        return list(examples)
    whole = list(examples)
    cuts = tokenizer.middle_cuts((prompt(example).text for example in whole), max_tokens)
    return [_marked(example, cut) for example, cut in zip(whole, cuts, strict=True)]


def _marked(example: Example, cut: tuple[int, int] | None) -> Example:
    if cut is None:
        return example
    return replace(example, meta={**example.meta, "cut": list(cut)})


def apply_cut(prompt: Prompt, example: Example) -> Prompt:
    """`prompt` without what the example's cut leaves out."""
    if "cut" not in example.meta:
        return prompt
    start, end = example.meta["cut"]
    split = len(prompt.head)
    head = prompt.head[:start] + prompt.head[end:]
    tail = prompt.tail[: max(0, start - split)] + prompt.tail[max(0, end - split) :]
    return replace(prompt, head=head, tail=tail)
