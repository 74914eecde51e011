"""The one form of JSON that is hashed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.canonical import canonical

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LONG = TEXTS.map(lambda text: f'{text}\n\x01"\\é\u2028{text}' * 60)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    TEXTS, LONG,
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS | LONG, inner, max_size=3),
    ),
    max_leaves=8,
)


@given(VALUES)
def test_long_texts_change_no_byte(value: Any) -> None:
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical(value) == plain.encode()


@pytest.mark.parametrize("odd", [float("nan"), "\ud800"])
def test_what_has_no_form_is_refused_beside_a_long_text_too(odd: object) -> None:
    with pytest.raises(ValueError, match=r"not JSON compliant|surrogates not allowed"):
        canonical({"text": "long " * 100, "odd": odd})
