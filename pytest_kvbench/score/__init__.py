"""What a metric makes of a reply: one family of metrics a file, the labels in `labels`.

A metric is `(prediction, answers, meta) -> float in [0, 1]`. It never changes its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Score
from pytest_kvbench.score.contain import all_of, any_of
from pytest_kvbench.score.labels import label_of
from pytest_kvbench.score.numbers import count, has_number
from pytest_kvbench.score.text import exact_match, f1

Metric = Callable[[str, Sequence[str], Mapping[str, Any]], float]
Reader = Callable[[str, Mapping[str, Any]], bool]

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "all_of": all_of,
        "any_of": any_of,
        "count": count,
        "exact_match": exact_match,
        "f1": f1,
    }
)

READERS: Mapping[str, Reader] = MappingProxyType({"count": has_number})
"""Metrics that need a format, and whether a reply has it. Others can read anything."""


def get_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: there is none; the message names them all.
    """
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}", f"valid: {', '.join(sorted(METRICS))}")
    return METRICS[name]


def score_answer(
    metric: str,
    text: str,
    finish_reason: str,
    answers: Sequence[str],
    meta: Mapping[str, Any],
) -> Score:
    """Score one reply.

    Args:
        metric: a key of `METRICS`.
        text: the reply.
        finish_reason: `stop` or `length`.
        answers: the accepted references.
        meta: the example's; some metrics need it (`all_classes`).
    """
    measure, reader = get_metric(metric), READERS.get(metric)
    readable = reader is None or reader(text, meta)
    return Score(
        value=measure(text, answers, meta),
        em=exact_match(text, answers, meta),
        label=label_of(text, finish_reason, readable=readable),
    )
