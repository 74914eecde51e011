"""What a row of data may hold: texts, answers in the shapes people have, and other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_kvbench.reading import brief, odd_value, texts

Row = Mapping[str, object]
"""A row of anybody's data. What a column holds, the functions below make sure of."""

OURS = frozenset({"cut", "tau", "compensated"})
"""Keys of an example's `meta` that a task sets: a column of that name goes by another."""

_SHAPES = "texts (a list of them, one, or SQuAD's {text: [...]})"


def text_of(row: Row, name: str, default: str | None = None) -> str:
    """A column of text; `default` stands for one that is missing or null.

    Raises:
        ValueError: it is missing without a default, or is no text.
    """
    value = row.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'missing' if value is None else brief(value)}, not a text")
    return value


def whole_of(row: Row, name: str) -> int | None:
    """A column with a whole number; None where it is missing, null or 0.

    Raises:
        ValueError: it is no number.
    """
    value = row.get(name)
    if not value:
        return None
    if not isinstance(value, int | float | str):
        raise ValueError(f"{name} is {brief(value)}, not a number")
    return int(value)


def list_in(value: object, name: str) -> list[object]:
    """What a column holds that has a list.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {brief(value)}, not a list")
    return list(value)


def rows_in(value: object, name: str) -> list[Row]:
    """What a column holds that has a list of rows.

    Raises:
        ValueError: it is none.
    """
    return [_row(one, name) for one in list_in(value, name)]


def _row(value: object, name: str) -> Row:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} holds {brief(value)}, not an object")
    return value


def texts_in(value: object, name: str) -> list[str]:
    """What a column holds that has a list of texts.

    Raises:
        ValueError: it is none.
    """
    found = texts(value)
    if found is None:
        raise ValueError(f"{name} is {brief(value)}, not a list of texts")
    return found


def check_cluster(row: Row) -> None:
    """Refuse a column `cluster` that names none.

    Raises:
        ValueError: it is neither text nor a whole number.
    """
    value = row.get("cluster")
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"cluster is {brief(value)}, neither a text nor a whole number")


def answers_of(value: object, *, numbers: bool = False, blank: bool = False) -> tuple[str, ...]:
    """The accepted answers.

    Args:
        value: a text, a list of texts, or what SQuAD has: `{"text": [...], "answer_start": [...]}`,
            or a list of `{"text": ..., "answer_start": ...}`.
        numbers: whether numbers are taken as their digits.
        blank: whether an answer may be blank. Metrics that look for an answer in a reply find a
            blank one in every reply.

    Raises:
        ValueError: anything else, or no answer.
    """
    given = _squad(value)
    listed = [given] if isinstance(given, str) or (numbers and _is_number(given)) else given
    if not isinstance(listed, list | tuple):
        raise ValueError(f"answers are {_missing(value)}, not {_SHAPES}")
    if numbers:
        listed = [str(text) if _is_number(text) else text for text in listed]
    if odd := [text for text in listed if not isinstance(text, str)]:
        raise ValueError(f"answers are not {_SHAPES}, but hold {brief(odd[0])}")
    if not listed:
        raise ValueError("answers are empty: leave out questions without one, or say what is right")
    if not blank and not all(text.strip() for text in listed):
        raise ValueError("an answer is blank: every reply would hold it")
    return tuple(listed)


def first_list(value: object) -> object:
    """The answers of a task whose one answer is a list: `[[1, 3, 6]]` is `[1, 3, 6]`."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], list) else value


def _squad(value: object) -> object:
    if isinstance(value, Mapping):
        return value.get("text", value)
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
        return [inner.get("text") for inner in value]
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _missing(value: object) -> str:
    return "missing" if value is None else brief(value)


def further(row: Row, used: Sequence[str]) -> dict[str, object]:
    """The columns that are not `used`, as an example's `meta`.

    A column that is named like one of `OURS` is kept as `row.NAME`: what a task does with its own
    key is never a matter of the data.

    Raises:
        ValueError: a value that is no JSON.
    """
    columns = {name: value for name, value in row.items() if name not in used}
    if odd := odd_value(columns):
        raise ValueError(": ".join(odd))
    return {_free(name, columns): value for name, value in columns.items()}


def _free(name: str, columns: Row) -> str:
    if name not in OURS:
        return name
    free = f"row.{name}"
    while free in columns:
        free = f"row.{free}"
    return free
