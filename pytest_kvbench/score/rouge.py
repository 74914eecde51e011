"""ROUGE-L as LongBench takes it: the `rouge` package, F of the summary-level longest subsequence.

Its variant counts distinct words and splits sentences at every full stop, so it differs from
Google's `rouge-score`; published LongBench numbers need this one.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from pytest_kvbench.records import Meta
from pytest_kvbench.score.segment import words


def rouge_l(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Best ROUGE-L F over the answers: `rouge_score`."""
    return max((_pair(prediction, answer) for answer in answers), default=0.0)


def rouge_l_zh(prediction: str, answers: Sequence[str], meta: Meta) -> float:
    """The same on Chinese words: `rouge_zh_score`."""
    return rouge_l(_spaced(prediction), [_spaced(answer) for answer in answers], meta)


def _spaced(text: str) -> str:
    return " ".join(words(text))


def _pair(prediction: str, answer: str) -> float:
    """ROUGE-L F of one pair; 0 where the package fails, as upstream has it.

    It fails on empty texts, and by recursion on sentences of a thousand words together. A thread
    of its own starts with an empty stack: a score does not depend on who asks for it.
    """
    result = 0.0

    def compute() -> None:
        nonlocal result
        try:
            result = float(_scorer().get_scores(prediction, answer)[0]["rouge-l"]["f"])
        except (ValueError, RecursionError):
            result = 0.0

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    return result


@cache
def _scorer() -> Any:
    from rouge import Rouge, rouge_score  # type: ignore[import-untyped]  # ships no types

    rouge_score._lcs = Lengths  # nothing else of it is slow
    return Rouge(metrics=["rouge-l"], stats=["f"])


class Lengths:
    """The package's table of longest subsequences, as far as its recursion can go back in it.

    Its own is a dict of every pair of words: 95 seconds and gigabytes for a reply of 20,000 words,
    which a server may send whatever it was asked.

    Args:
        x: words of the reference.
        y: words of the reply.
    """

    def __init__(self, x: Sequence[str], y: Sequence[str]) -> None:
        reach = sys.getrecursionlimit()
        # A copy of a row's end: a view of it would keep the whole row.
        rows = (row[-reach:].copy() for row in length_rows(x, y))
        self._rows = deque(rows, maxlen=reach)
        self._first = (len(x) + 1 - len(self._rows), len(y) + 1 - len(self._rows[0]))

    def __getitem__(self, place: tuple[int, int]) -> int:
        row, column = (at - first for at, first in zip(place, self._first, strict=True))
        return int(self._rows[row][column])


def length_rows(x: Sequence[str], y: Sequence[str]) -> Iterator[Any]:
    """The table of longest common subsequences: entry j of row i is that of x[:i] and y[:j]."""
    import numpy as np

    numbers = {word: number for number, word in enumerate(dict.fromkeys(y))}
    reply = np.array([numbers[word] for word in y], dtype=np.int32)
    row = np.zeros(len(y) + 1, dtype=np.int32)
    yield row
    for word in x:
        longer = np.maximum(row[1:], row[:-1] + (reply == numbers.get(word, -1)))
        row = np.maximum.accumulate(np.append(row[:1], longer))
        yield row
