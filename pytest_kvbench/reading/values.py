"""What may stand in data that people give us, and how an error shows a value."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

MAX_DEPTH = 32
"""Lists and mappings inside each other; what stores and sends them goes down by recursion."""

MAX_DIGITS = 1000
"""Of a whole number: Python itself refuses to write 4,301."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


def brief(value: object) -> str:
    """`repr` of a value of any size, cut in the middle where it is long."""
    try:
        return _REPR.repr(value)
    except ValueError:  # a number with more digits than Python writes
        return (
            f"a number of about {digits(value)} digits"
            if isinstance(value, int)
            else "a long value"
        )


def digits(number: int) -> int:
    """About how many digits a whole number has, without writing it."""
    return int(number.bit_length() * math.log10(2)) + 1


def texts(value: object) -> list[str] | None:
    """A list of texts; None where it is anything else."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        return None
    return list(value)


def refuse_yes(value: object, annotation: object) -> object:
    """A value as it is, unless a yes or no stands where a number belongs, which would be 1 or 0.

    Args:
        value: what is given, or a list of it.
        annotation: the type that is wanted.

    Raises:
        ValueError: naming what YAML makes of which words.
    """
    given = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, bool) for one in given):
        wanted = set(_types(annotation))
        if wanted & {int, float} and not wanted & {bool, Any}:
            raise ValueError("needed is a number: yes and on are true, no and off are false")
    return value


def _types(annotation: object) -> Iterator[object]:
    inner = get_args(annotation)
    yield from itertools.chain.from_iterable(map(_types, inner)) if inner else (annotation,)


def odd_value(value: object, *, nul: bool = True) -> tuple[str, str] | None:
    """The first thing in `value` that cannot be kept as JSON: its dotted key, and why.

    Args:
        value: any nesting of mappings and lists.
        nul: whether a text may hold the character NUL, at which names of files end.
    """
    return next(_odd(value, (), nul), None)


def _odd(value: object, path: tuple[str, ...], nul: bool) -> Iterator[tuple[str, str]]:
    if len(path) > MAX_DEPTH:
        yield path[0], f"is nested deeper than {MAX_DEPTH} levels"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _odd_key(key, path, nul)
            yield from _odd(inner, (*path, str(key)), nul)
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from _odd(inner, (*path, str(position)), nul)
    elif problem := _problem(value, nul):
        yield ".".join(path), problem


def _odd_key(key: Any, path: tuple[str, ...], nul: bool) -> Iterator[tuple[str, str]]:
    if not isinstance(key, str):
        yield ".".join(path), f"{brief(key)} is no text, as a key must be"
    elif problem := _problem(key, nul):
        yield ".".join(path), f"the key {brief(key)} {problem}"


def _problem(value: object, nul: bool) -> str:
    if isinstance(value, str):
        return _odd_text(value, nul)
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is no finite number"
    if isinstance(value, int):
        return f"a number of about {digits(value)} digits" if digits(value) > MAX_DIGITS else ""
    return "" if value is None else f"{type(value).__name__} is no text, number, list or mapping"


def _odd_text(text: str, nul: bool) -> str:
    if not nul and "\0" in text:
        return "holds the character NUL"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half of a character, \\u{ord(text[error.start]):04x}"
    return ""
