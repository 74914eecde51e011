"""InfiniteBench's own metrics (OpenBMB/InfiniteBench, src/compute_scores.py).

Where a task takes a list of answers and upstream looks at the first alone, so does this. Code.Debug
and En.MC have two: the text of the right option, and its letter. Numbers are answers by their
digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_kvbench.records import Meta
from pytest_kvbench.score.segment import normalise_zh
from pytest_kvbench.score.text import bag_f1

_SIGNS = str.maketrans(dict.fromkeys("\n:\"'.,?!{}", " "))
_SIGNS_OF_CODE = str.maketrans(dict.fromkeys("\n.`'\":", " "))
_SIGNS_OF_OPTIONS = str.maketrans(dict.fromkeys("\n\"'.,?!{}", " "))
_AROUND_A_NAME = re.compile(r"[\n`'\"\-*]|Option|option")
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_DIGITS = re.compile(r"[0-9]+")
_LETTERS = "ABCD"
_BEFORE_A_FUNCTION = ("answer is:", "is:", "answer:", "correct option is:")
_BEFORE_A_CHOICE = ("answer is:", "answer:", "answer is", "option is")


def first_digits(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the first run of digits is the answer: Retrieve.PassKey and Retrieve.Number."""
    found = _DIGITS.search(prediction)
    return float((found[0] if found else "") == answers[0])


def word_of(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the answer is a word of the reply, signs aside: Retrieve.KV."""
    return float(answers[0] in prediction.translate(_SIGNS).split())


def word_in_capitals(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the first name is a word of the reply in capitals: En.Dia.

    A name of two words is never found.
    """
    return float(answers[0] in prediction.translate(_SIGNS).upper().split())


def last_word_as_number(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the reply's last word is the whole number asked for: Code.Run."""
    words = prediction.translate(_SIGNS_OF_CODE).split()
    try:
        return float(bool(words) and int(words[-1]) == int(answers[0]))
    except ValueError:
        return 0.0


def first_number(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the first number, its sign aside, is the answer: Math.Find."""
    found = _NUMBER.search(prediction)
    try:
        return float(found is not None and float(found[0]) == float(answers[0]))
    except ValueError:
        return 0.0


def numbers_in_order(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Share of the values that come before the first wrong one: Math.Calc. Signs do not count."""
    right = 0
    for found, wanted in zip(_DIGITS.findall(prediction), answers, strict=False):
        if found.lstrip("0") != wanted.lstrip("0"):
            break
        right += 1
    return right / len(answers)


def option_of_code(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 where the reply begins with the letter, or names it or the function at once: Code.Debug."""
    name, letter = answers[0], answers[-1]
    text = prediction.strip()
    if text[:2] in {f"{letter}.", f"{letter}:"}:
        return 1.0
    text = _one_blank(_AROUND_A_NAME.sub(" ", text))
    after = _after(text, _BEFORE_A_FUNCTION)
    return float(after is not None and after.startswith((letter, name)))


def option(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """1 for the right letter, at the start or after words that announce it: En.MC."""
    text = prediction.strip()
    if text[:1] and text[0] in _LETTERS:
        return float(text[0] in answers)
    if text in answers:
        return 1.0
    text = _one_blank(text.translate(_SIGNS_OF_OPTIONS))
    after = _after(text, _BEFORE_A_CHOICE)
    if after is not None:
        return float(after.startswith(tuple(answers)))
    letters = (word for word in text.split() if word in _LETTERS)
    return float(next(letters, None) in answers)


def f1_characters(prediction: str, answers: Sequence[str], meta: Meta) -> float:  # noqa: ARG001  # a metric's signature
    """Best F1 over the answers, of the bags of Chinese characters: Zh.QA."""
    given = normalise_zh(prediction)
    return max((bag_f1(given, normalise_zh(answer)) for answer in answers), default=0.0)


def _one_blank(text: str) -> str:
    return re.sub(" {2,}", " ", text)


def _after(text: str, prefixes: Sequence[str]) -> str | None:
    """What follows the first of `prefixes` that is in `text`, a sign later; None without any."""
    prefix = next((one for one in prefixes if one in text), None)
    return None if prefix is None else text[text.index(prefix) + len(prefix) + 1 :]
