"""SQuAD's answer normalisation, and the metrics built on it.

Rajpurkar et al. 2016, evaluate-v1.1: lower case, no ASCII punctuation, no English articles, single
blanks. LongBench's `qa_f1_score` is the same F1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from pytest_kvbench.records import Meta

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def first_line(text: str) -> str:
    """The reply's first line alone (LongBench, eval.py: few-shot tasks)."""
    return text.lstrip("\n").split("\n")[0]


def normalise(text: str) -> str:
    """A text as SQuAD compares it: lower case, without articles and punctuation."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the normalised prediction equals a normalised answer, else 0."""
    given = normalise(prediction)
    return float(any(given == normalise(answer) for answer in answers))


def f1(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Best F1 over the answers, of the bags of normalised words."""
    given = normalise(prediction).split()
    return max((bag_f1(given, normalise(answer).split()) for answer in answers), default=0.0)


def bag_f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of two bags of tokens; 0 where nothing is shared."""
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)
