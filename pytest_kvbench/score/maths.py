"""Metrics of a result at the end of a long reply: its last number, or its last boxed answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_kvbench.records import Meta

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NOTHING = re.compile(r"\\(?:left|right|displaystyle|,|!|;| )|\s+|\$|\\text\s*\{\s*\}")
_SAME = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "−": "-"}


def last_number(prediction: str, answers: Sequence[str], _meta: Meta) -> float:
    """1 where the last number of a reply is an answer: how it got there does not count."""
    found = _numbers(prediction)
    return float(bool(found) and found[-1] in [one for a in answers for one in _numbers(a)[-1:]])


def boxed(prediction: str, answers: Sequence[str], _meta: Meta) -> float:
    """1 where the last boxed answer is one that is accepted, however it is spaced."""
    found = last_boxed(prediction)
    return float(found is not None and _plain(found) in {_plain(answer) for answer in answers})


def has_result(prediction: str, _meta: Meta) -> bool:
    """Whether a reply has a number."""
    return bool(_numbers(prediction))


def has_box(prediction: str, _meta: Meta) -> bool:
    """Whether a reply has a boxed answer, whole."""
    return last_boxed(prediction) is not None


def result_ballot(text: str, _meta: Meta) -> Sequence[str]:
    """The last number as a vote."""
    return _numbers(text)[-1:]


def box_ballot(text: str, _meta: Meta) -> Sequence[str]:
    """The last boxed answer as a vote."""
    found = last_boxed(text)
    return () if found is None else (_plain(found),)


def last_boxed(text: str) -> str | None:
    """What the last `\\boxed{...}` of a text holds, nested braces and all; None where none ends."""
    for begun in reversed(list(_BOXED.finditer(text))):
        if (end := _closing(text, begun.end())) is not None:
            return text[begun.end() : end]
    return None


def _closing(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` is closed; an escaped one is none."""
    depth, at = 1, start
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return at
        at += 1
    return None


def _numbers(text: str) -> list[str]:
    """Numbers in their plainest form: `1,200.0` is `1200`."""
    return [_plainest(found.replace(",", "")) for found in _NUMBER.findall(text)]


def _plainest(number: str) -> str:
    whole = number.rstrip("0").rstrip(".") if "." in number else number
    sign = "-" if whole.startswith("-") else ""
    return sign + (whole.removeprefix("-").lstrip("0") or "0")


def _plain(answer: str) -> str:
    for word, same in _SAME.items():
        answer = answer.replace(word, same)
    plain = _NOTHING.sub("", answer).rstrip(".")
    return _numbers(plain)[0] if _NUMBER.fullmatch(plain) else plain
