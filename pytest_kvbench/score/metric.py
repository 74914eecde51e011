"""What a metric makes of a reply: one family of metrics a file, the labels in `labels`.

A metric is `(prediction, answers, meta) -> float in [0, 1]`. It never changes its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Score
from pytest_kvbench.score.choice import choice, right_choice, states_choice
from pytest_kvbench.score.classify import classes_of, classification
from pytest_kvbench.score.code import code_similarity
from pytest_kvbench.score.contain import all_of, any_of
from pytest_kvbench.score.credited import (
    check_options,
    credited,
    evidence_parts,
    is_readable,
    right_and_readable,
)
from pytest_kvbench.score.labels import label_of
from pytest_kvbench.score.numbers import count, has_number, retrieval, retrieval_zh
from pytest_kvbench.score.rouge import rouge_l, rouge_l_zh
from pytest_kvbench.score.segment import f1_zh
from pytest_kvbench.score.text import exact_match, f1, first_line

Metric = Callable[[str, Sequence[str], Mapping[str, Any]], float]
Reader = Callable[[str, Mapping[str, Any]], bool]


def on_first_line(metric: Metric) -> Metric:
    """`metric` of the reply's first line alone."""

    def measure(prediction: str, answers: Sequence[str], meta: Mapping[str, Any]) -> float:
        return metric(first_line(prediction), answers, meta)

    return measure


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "all_of": all_of,
        "any_of": any_of,
        "choice": choice,
        "classification": classification,
        "classification_first_line": on_first_line(classification),
        "code_similarity": code_similarity,
        "count": count,
        "credited": credited,
        "exact_match": exact_match,
        "f1": f1,
        "f1_first_line": on_first_line(f1),
        "f1_zh": f1_zh,
        "retrieval": retrieval,
        "retrieval_zh": retrieval_zh,
        "rouge_l": rouge_l,
        "rouge_l_first_line": on_first_line(rouge_l),
        "rouge_l_zh": rouge_l_zh,
    }
)

READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "choice": states_choice,
        "count": has_number,
        "credited": is_readable,
        "retrieval": has_number,
        "retrieval_zh": has_number,
    }
)
"""Metrics that need a format, and whether a reply has it. Others can read anything."""

STRICT: Mapping[str, Metric] = MappingProxyType(
    {
        "choice": right_choice,
        "credited": right_and_readable,
        "classification_first_line": on_first_line(exact_match),
        "f1_first_line": on_first_line(exact_match),
        "rouge_l_first_line": on_first_line(exact_match),
    }
)
"""What `Score.em` is where it is not the exact match of the whole reply."""


Needs = Callable[[Mapping[str, Any]], object]

NEEDS: Mapping[str, Needs] = MappingProxyType(
    {
        "classification": classes_of,
        "classification_first_line": classes_of,
        "credited": check_options,
    }
)
"""Metrics that need something of an example's `meta`, and what refuses one that lacks it."""

Parts = Callable[[str, Sequence[str], Mapping[str, Any]], Mapping[str, float]]

PARTS: Mapping[str, Parts] = MappingProxyType({"credited": evidence_parts})
"""Metrics whose parts are worth a look of their own."""


def check_meta(metric: str, meta: Mapping[str, Any]) -> None:
    """Refuse an example that a metric could not score, before anything is asked.

    Raises:
        ValueError: what the metric needs is missing, or of another kind.
    """
    try:
        if metric in NEEDS:
            NEEDS[metric](meta)
    except UsageError as error:
        raise ValueError(error.what) from error


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
    context: str | None = None,
) -> Score:
    """Score one reply.

    Args:
        metric: a key of `METRICS`.
        text: the reply.
        finish_reason: `stop` or `length`.
        answers: the accepted references.
        meta: the example's; some metrics need it (`all_classes`).
        context: the example's; metrics that look quotes up (`credited`) cannot do without.

    Raises:
        UsageError: an unknown metric, or one that lacks what it needs.
    """
    known = meta if context is None else {**meta, "context": context}
    measure, reader, parts = get_metric(metric), READERS.get(metric), PARTS.get(metric)
    readable = reader is None or reader(text, known)
    return Score(
        value=measure(text, answers, known),
        em=STRICT.get(metric, exact_match)(text, answers, known),
        label=label_of(text, finish_reason, readable=readable),
        parts=parts(text, answers, known) if parts else {},
    )
