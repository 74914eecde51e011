"""What others send, made fit to keep: JSON that may hold anything, texts and numbers of it.

UTF-8 knows no lone surrogates, SQLite no integers beyond 64 bit, canonical JSON no NaN: whatever
passes here can be stored, hashed and written. What is not sound is missing, never guessed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Fields = Mapping[str, object]
"""A JSON object of another program's: what its keys hold, the functions below make sure of."""

MESSAGE = 500
"""Characters of a message that are kept."""

_CHANGES = re.compile(r"\S*\d\S*")
_COMPARED = 120
_LARGEST = 2**63 - 1
_LONGEST_NUMBER = 4_000
"""Digits; Python reads no more than 4,300 by default."""

# What moves a terminal's cursor, or turns the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_NOTHING: Fields = MappingProxyType({})


def text(value: str) -> str:
    """Without lone surrogates: two halves that have met are one character, others are U+FFFD."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def message(value: object, longest: int = MESSAGE) -> str:
    """A message for people in one line, whatever it was: without control characters, cut."""
    if isinstance(value, str) and len(value) <= longest and value.isprintable():
        return value.strip()
    if isinstance(value, str):
        shown = value[: 4 * longest]  # before it is looked through; blanks may fall away
    else:
        try:
            shown = "" if value is None else str(value)
        except (RecursionError, ValueError):  # too deep; an integer of too many digits
            shown = type(value).__name__
    shown = _CONTROL.sub(" ", text(shown)).strip()
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def words(message: str) -> str:
    """The beginning of a message without what changes from one to the next: numbers and ids."""
    return _CHANGES.sub("#", message[: 4 * _COMPARED])[:_COMPARED]


def count(value: object) -> int | None:
    """A whole number, not negative, of at most 63 bits; 12.0 is one, true is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _LARGEST else None


def number(value: object) -> float | None:
    """A number, not negative, at most the largest count: the sum of any of them is finite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        parsed = float(value)
    except OverflowError:
        return None
    return parsed if 0 <= parsed <= _LARGEST else None


def fields(value: object) -> Fields:
    """The fields of a JSON object; anything else has none."""
    return value if isinstance(value, Mapping) else _NOTHING


def objects(value: object) -> list[Fields]:
    """The objects in a JSON list; anything else holds none."""
    some = value if isinstance(value, list) else []
    return [entry for entry in some if isinstance(entry, Mapping)]


def decoded(content: bytes | str) -> Any:
    """JSON, with or without a byte order mark. Numbers too long to read are infinite.

    Raises:
        ValueError: it is no JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(content, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def data(content: bytes | str) -> Any:
    """`decoded`, every string in it `text`, and no number that is not finite.

    Raises:
        ValueError: as `decoded`.
    """
    try:
        return _cleaned(decoded(content))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else math.inf


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {text(name): _cleaned(inner) for name, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value
