"""What others send, made fit to keep."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.records import canonical
from pytest_kvbench.wire import sound

TEXTS = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(TEXTS)
def test_a_text_can_be_encoded_and_only_surrogates_differ(value: str) -> None:
    made = sound.text(value)
    made.encode()
    assert sound.text(made) == made
    if not any("\ud800" <= c <= "\udfff" for c in value):
        assert made == value


@given(st.text(), TEXTS)
def test_halves_that_meet_are_one_character(before: str, after: str) -> None:
    assert sound.text(f"{before}\ud83d" + f"\ude00{after}") == f"{before}\N{GRINNING FACE}" + (
        sound.text(after)
    )
    assert sound.text("\ude00\ud83d") == "\ufffd\ufffd"


@given(TEXTS, st.integers(10, 40))
def test_a_message_is_one_short_line(value: str, longest: int) -> None:
    told = sound.message(value, longest)
    told.encode()
    assert len(told) <= longest
    assert len(told.splitlines()) <= 1
    assert "\x1b" not in told


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, ""),
        ({"a": 1}, "{'a': 1}"),
        (7, "7"),
        ("\x1b[31mred\r\n\u202ebidi", "[31mred bidi"),
    ],
)
def test_whatever_a_message_was(value: object, told: str) -> None:
    assert sound.message(value) == told


def test_what_cannot_be_written_out_is_named() -> None:
    assert (sound.message(10**5000), sound.message(deep(5000))) == ("int", "list")


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (12, 12),
        (12.0, 12),
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        *((odd, None) for odd in (2**63, -1, 3.5, -2.0, 1e300, math.inf, math.nan, 10**400)),
        *((odd, None) for odd in (True, "7", None, {}, [3])),
    ],
)
def test_a_count_is_a_whole_number_that_can_be_stored(value: object, known: int | None) -> None:
    assert sound.count(value) == known
    assert not isinstance(sound.count(value), float)


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (2**62, 2.0**62),
        (5e-324, 5e-324),
        # Finite, but their sum over some answers is not: it ended the run.
        *((odd, None) for odd in (10**40, 1e300, 1e308)),
        *((odd, None) for odd in (-0.1, math.inf, math.nan, 10**400, True, "1.5", None, {}, [1])),
    ],
)
def test_a_number_is_finite_and_not_negative(value: object, known: float | None) -> None:
    assert sound.number(value) == known


def test_json_of_any_kind_is_read_or_a_value_error() -> None:
    assert sound.decoded(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert sound.decoded(f"[{'9' * 40}, -{'9' * 9000}]") == [10**40 - 1, math.inf]
    for odd in ("[" * 200_000, '{"a":' * 100_000, "{", "", b"\xff\xff", "NaNN"):
        with pytest.raises(ValueError, match=r"."):
            sound.decoded(odd)


SHORT = st.text(st.characters(exclude_categories=()), max_size=4)


@given(
    st.recursive(SHORT, lambda some: st.lists(some) | st.dictionaries(SHORT, some), max_leaves=6)
)
def test_cleaned_data_can_be_written(value: Any) -> None:
    canonical(sound.data(json.dumps([value, math.nan, -math.inf])))


def test_data_nested_too_deep_to_clean_is_none() -> None:
    with pytest.raises(ValueError, match="too deep"):
        sound.data("[" * 700 + "]" * 700)
