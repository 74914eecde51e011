"""Where the evidence stands in a prompt, and a prompt cut to it.

A mark is a text that is looked for in the prompt: what the data name as support, and accepted
answers where they stand in the context a few times at most (a letter stands everywhere).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_kvbench.records import Example

SHORTEST = 3
MOST = 5
"""An answer that stands in the context more often is no evidence."""
_SENTENCE = r"[^.!?\n]{0,300}"


def marks_of(example: Example) -> list[str]:
    """The texts to mark in an example's prompt, each once."""
    return list(dict.fromkeys([*_supports(example), *_needles(example)]))


def _supports(example: Example) -> Iterator[str]:
    """The support of a right choice, where the data name one for each option."""
    given = example.meta.get("support") or example.meta.get("cards") or ()
    if isinstance(given, str):
        given = [given]
    for one in given if isinstance(given, Sequence) else ():
        if isinstance(one, str) and len(one) >= SHORTEST and one in example.context:
            yield one


def _needles(example: Example) -> Iterator[str]:
    """The sentences of the context around an accepted answer."""
    for answer in example.answers:
        if len(answer) >= SHORTEST and 0 < example.context.count(answer) <= MOST:
            around = re.compile(f"{_SENTENCE}{re.escape(answer)}{_SENTENCE}[.!?]?")
            yield from (found.group().strip() for found in around.finditer(example.context))


def cut(prompt: str, marks: Sequence[str], most: int) -> list[str]:
    """The pieces of a prompt that are kept of it, in `most` characters; whole, it is one piece.

    Its beginning and end are kept, and what stands around its marks.
    """
    if len(prompt) <= most:
        return [prompt]
    if not most:
        return []
    at = [place for mark in marks if (place := prompt.find(mark)) >= 0]
    around = most // (2 + len(at))
    windows = [(0, around), *((a - around // 2, a + around // 2) for a in at)]
    windows.append((len(prompt) - around, len(prompt)))
    return [prompt[low:high] for low, high in _joined(windows)]


def _joined(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Windows in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((max(0, low), high) for low, high in windows):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found
