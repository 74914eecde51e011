"""Two choices of a forced reply become one record, or are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.divergence.forced import from_choices
from pytest_kvbench.divergence.records import Bounds, UnsoundError

CONTROL = {
    "reference": [5, 6, 2],
    "k": None,
    "nll": [0.1, 0.2, 0.3],
    "top": [5, 6, 2],
    "top_nll": [0.1, 0.2, 0.3],
    "reference_top_nll": [0.1, 0.2, 0.3],
    "overlap": [1.0, 1.0, 1.0],
    "kld": [0.0, 0.0, 0.0],
}
ARM = {
    **CONTROL,
    "nll": [0.1, 2.0, 0.3],
    "top": [5, 7, 2],
    "top_nll": [0.1, 0.4, 0.3],
    "reference_top_nll": [0.1, 1.5, 0.3],
    "overlap": [1.0, 0.4, 0.7],
    "kld": [0.0, 0.6, 0.0],
}


def choices(arm: object) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"forced": CONTROL}, {"forced": arm}


def test_an_arm_is_read_beside_the_full_cache() -> None:
    found = from_choices(*choices(ARM))
    assert (found.n, found.prefix, found.k) == (3, 1, None)
    assert found.bounds("overlap") == Bounds(pytest.approx(0.7), pytest.approx(0.7))
    assert found.bounds("kld") == Bounds(pytest.approx(0.2), pytest.approx(0.2))
    assert found.bounds("same_top") == Bounds(pytest.approx(2 / 3), pytest.approx(2 / 3))
    at = found.prefix
    seen = found.positions
    assert (seen.control_top[at], seen.top[at]) == (6, 7)
    assert (seen.control_top_nll[at], seen.top_control_nll[at], seen.top_nll[at]) == (0.2, 1.5, 0.4)


def test_the_full_cache_is_equal_to_itself() -> None:
    found = from_choices({"forced": CONTROL}, {"forced": CONTROL})
    assert found.prefix == found.n
    assert found.perplexity_ratio == 1
    assert {found.bounds(m) for m in ("overlap", "same_top", "prefix")} == {Bounds(1, 1)}


@pytest.mark.parametrize("name", sorted(set(CONTROL) - {"k"}))
@given(
    value=st.none() | st.floats() | st.lists(st.none() | st.booleans() | st.floats(max_value=-0.5))
)
def test_what_is_no_forced_reply_is_refused(name: str, value: object) -> None:
    with pytest.raises(UnsoundError):
        from_choices(*choices({**ARM, name: value}))
    with pytest.raises(UnsoundError):
        from_choices({"forced": value}, {"forced": ARM})
    with pytest.raises(UnsoundError):
        from_choices(value, {"forced": ARM})
