"""Metrics on the numbers of a reply (LongBench v1, metrics.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def count(prediction: str, answers: Sequence[str], meta: Mapping[str, Any]) -> float:  # noqa: ARG001  # a metric's signature
    """Share of all numbers in the prediction that are the answer: `count_score`.

    Saying more numbers costs score, on purpose: that is how LongBench counts.
    """
    return max((share_of(numbers(prediction), answer) for answer in answers), default=0.0)


def has_number(prediction: str, meta: Mapping[str, Any]) -> bool:  # noqa: ARG001  # a reader's signature
    """Whether there is anything that `count` can read."""
    return bool(numbers(prediction))


def numbers(text: str) -> list[str]:
    """Runs of digits, as written."""
    return re.findall(r"\d+", text)


def share_of(found: Sequence[str], wanted: str) -> float:
    """Share of `found` that equals `wanted`; 0 where nothing was found."""
    return found.count(wanted) / len(found) if found else 0.0
