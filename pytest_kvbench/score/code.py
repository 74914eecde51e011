"""Similarity of the next line of code (LongBench v1, metrics.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any


def code_similarity(prediction: str, answers: Sequence[str], meta: Mapping[str, Any]) -> float:  # noqa: ARG001  # a metric's signature
    """Edit similarity of the reply's first line of code, in hundredths: `code_sim_score`.

    It is fuzzywuzzy's `ratio` without python-Levenshtein, which LongBench does not ask for: the
    standard library's matcher, rounded to whole percents.
    """
    line = first_code_line(prediction)
    return max((_ratio(line, answer) for answer in answers), default=0.0)


def first_code_line(text: str) -> str:
    """The first line without fence or comment signs; "" where there is none."""
    lines = text.lstrip("\n").split("\n")
    return next((line for line in lines if not any(s in line for s in ("`", "#", "//"))), "")


def _ratio(line: str, answer: str) -> float:
    if line == answer:
        return 1.0
    if not line or not answer:
        return 0.0
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100
