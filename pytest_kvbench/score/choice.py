"""Multiple choice as LongBench v2 reads it (pred.py, extract_answer; result.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_kvbench.records import Meta

_STATED = (
    re.compile(r"The correct answer is \(([A-D])\)"),
    re.compile(r"The correct answer is ([A-D])"),
)


def choice(prediction: str, answers: Sequence[str], meta: Meta) -> float:
    """1 for the right letter. A reply without a letter is worth 0, or 0.25 where compensated.

    Args:
        prediction: the reply.
        answers: the right letter.
        meta: `compensated`, whether an unreadable reply counts as a guess among four.
    """
    letter = stated_choice(prediction)
    if letter is None:
        return 0.25 if meta.get("compensated") else 0.0
    return float(letter in answers)


def right_choice(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 for the right letter, else 0: never compensated."""
    return float(stated_choice(prediction) in answers)


def states_choice(prediction: str, meta: Meta) -> bool:  # noqa: ARG001  # a reader's signature
    """Whether the reply names a letter in the way asked for."""
    return stated_choice(prediction) is not None


def stated_choice(prediction: str) -> str | None:
    """The letter of "The correct answer is (B)", asterisks ignored; parentheses come first."""
    text = prediction.replace("*", "")
    matches = (pattern.search(text) for pattern in _STATED)
    return next((match[1] for match in matches if match), None)


def among_options(meta: Meta) -> float:
    """The score of guessing among an example's `options`; 0 where it lists none."""
    options = meta.get("options")
    return 1 / len(options) if isinstance(options, list | Mapping) and options else 0.0
