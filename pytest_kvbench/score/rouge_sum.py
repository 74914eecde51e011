"""ROUGE-Lsum as Google's `rouge-score` has it without stemming: InfiniteBench's En.Sum.

A sentence is a line. Another number than `rouge_l`, whose package splits at full stops.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pytest_kvbench.records import Meta
from pytest_kvbench.score.rouge import length_rows

_WORD = re.compile(r"[a-z0-9]+")
_Words = list[str]


def rouge_l_sum(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Best F over the answers, of the words in the union of longest common subsequences."""
    given = _lines(prediction)
    return max((_f(given, _lines(answer)) for answer in answers), default=0.0)


def _lines(text: str) -> list[_Words]:
    return [_WORD.findall(line) for line in text.lower().split("\n")]


def _f(given: Sequence[_Words], wanted: Sequence[_Words]) -> float:
    left = [Counter(word for line in lines for word in line) for lines in (given, wanted)]
    totals = [sum(counts.values()) for counts in left]
    hits = 0
    for word in (line[i] for line in wanted for i in sorted(_shared(line, given))):
        if all(counts[word] > 0 for counts in left):  # a word counts as often as both sides have it
            hits += 1
            for counts in left:
                counts[word] -= 1
    return 2 * hits / sum(totals) if hits else 0.0


def _shared(line: _Words, given: Sequence[_Words]) -> set[int]:
    """Positions in `line` of the words that a longest common subsequence with a line shares."""
    return {at for other in given for at in _positions(line, other)}


def _positions(line: _Words, other: _Words) -> list[int]:
    rows = list(length_rows(line, other))
    at, (i, j) = [], (len(line), len(other))
    while i and j:
        if line[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            at.append(i)
        elif rows[i][j - 1] > rows[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return at
