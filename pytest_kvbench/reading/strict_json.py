"""One strict JSON parser: what it lets through can be stored, sent and written again."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading.values import MAX_DEPTH, odd_value


def parse_json(text: str, where: str, needed: str = "needed: valid JSON") -> Any:
    """The value of a JSON text.

    Args:
        text: one value.
        where: the file, and the row where it is one of many; errors begin with it.
        needed: the second line of an error.

    Raises:
        UsageError: it is not JSON, says a key twice, or holds NaN, Infinity, half of a character,
            a number of thousands of digits, or lists in lists in lists.
    """
    try:
        value = _DECODER.decode(text.removeprefix("\ufeff"))
    except RecursionError:
        raise UsageError(f"{where}: is nested deeper than {MAX_DEPTH} levels", needed) from None
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {_message(error)}", needed) from error
    if odd := odd_value(value):
        raise UsageError(f"{where}: {': '.join(filter(None, odd))}", needed)
    return value


def _message(error: ValueError) -> str:
    if "integer string conversion" in str(error):
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return str(error)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON (null where there is none)")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return members


_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_once)
