"""Metrics that look for the answers inside the reply (RULER: eval/synthetic/constants.py)."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvbench.records import Meta


def all_of(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Share of the answers that occur in the prediction, in any case: `string_match_all`."""
    hits = _hits(prediction, answers)
    return sum(hits) / len(hits) if hits else 0.0


def any_of(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where one of the answers occurs in the prediction, in any case: `string_match_part`."""
    return float(any(_hits(prediction, answers)))


def _hits(prediction: str, answers: Sequence[str]) -> list[bool]:
    text = prediction.lower()
    return [answer.lower() in text for answer in answers]
