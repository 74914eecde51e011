"""Metrics on the numbers of a reply (LongBench v1, metrics.py).

Saying more numbers costs score, on purpose: that is how LongBench counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Meta


def count(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Share of all numbers in the prediction that are the answer: `count_score`."""
    return _best_share(prediction, answers)


def retrieval(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """The same with the number of "Paragraph 7": `retrieval_score`."""
    return _best_share(prediction, [_numbered(answer, "Paragraph ") for answer in answers])


def retrieval_zh(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """The same with the number of "段落7": `retrieval_zh_score`."""
    return _best_share(prediction, [_numbered(answer, "段落") for answer in answers])


def has_number(prediction: str, meta: Meta) -> bool:  # noqa: ARG001  # a reader's signature
    """Whether there is anything these metrics can read."""
    return bool(numbers(prediction))


def numbers(text: str) -> list[str]:
    """Runs of digits, as written."""
    return re.findall(r"\d+", text)


def _best_share(prediction: str, answers: Sequence[str]) -> float:
    found = numbers(prediction)
    return max((found.count(a) / len(found) for a in answers), default=0.0) if found else 0.0


def _numbered(answer: str, word: str) -> str:
    match = re.search(rf"{word}(\d+)", answer)
    if match is None:
        raise UsageError(
            f"a retrieval metric got the answer {answer!r}", f"needed: answers such as '{word}7'"
        )
    return match[1]
