"""Similarity of the next line of code (LongBench v1, metrics.py).

Upstream takes fuzzywuzzy's `ratio`, which is another number where python-Levenshtein happens to be
installed: it says so only in a warning, so that both are in the wild. Here each is a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from pytest_kvbench.records import Meta


def code_similarity(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Edit similarity of the reply's first line of code, in hundredths: `code_sim_score`.

    It is fuzzywuzzy's `ratio` without python-Levenshtein, which LongBench does not ask for: the
    standard library's matcher (difflib), rounded to whole percents.
    """
    return _best(matched, prediction, answers)


def code_similarity_levenshtein(
    prediction: str,
    answers: Sequence[str],
    meta: Meta,  # noqa: ARG001  # a metric's signature
) -> float:
    """The same as fuzzywuzzy gives it where python-Levenshtein is installed."""
    return _best(insertions_and_deletions, prediction, answers)


def first_code_line(text: str) -> str:
    """The first line without fence or comment signs; "" where there is none."""
    lines = text.lstrip("\n").split("\n")
    return next((line for line in lines if not any(s in line for s in ("`", "#", "//"))), "")


def _best(
    similarity: Callable[[str, str], float], prediction: str, answers: Sequence[str]
) -> float:
    line = first_code_line(prediction)
    return max((_percent(similarity, line, answer) for answer in answers), default=0.0)


def _percent(similarity: Callable[[str, str], float], line: str, answer: str) -> float:
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * similarity(line, answer)) / 100


def matched(line: str, answer: str) -> float:
    """difflib's ratio."""
    return SequenceMatcher(None, line, answer).ratio()


def insertions_and_deletions(line: str, answer: str) -> float:
    """python-Levenshtein's ratio: 1 less the insertions and deletions, over both lengths."""
    return 2 * longest_common(line, answer) / (len(line) + len(answer))


def longest_common(one: str, other: str) -> int:
    """The length of the longest common subsequence, a row of the table in one whole number.

    Hyyrö (2004), "Bit-parallel LCS-length computation revisited".
    """
    short, long = sorted((one, other), key=len)
    places: dict[str, int] = {}
    for place, sign in enumerate(short):
        places[sign] = places.get(sign, 0) | 1 << place
    whole = (1 << len(short)) - 1
    row = whole
    for sign in long:
        hits = row & places.get(sign, 0)
        row = ((row + hits) | (row - hits)) & whole
    return len(short) - row.bit_count()
