"""JSON that nobody would send on purpose, for Hypothesis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

_LEAVES = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e300, 5e-324),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "x", "\ud800", "\udfff\ud800", "\x00", "\u2028", "😀", "é" * 50, "null", "1"),
    *([], {}, [[]], [None], {"": {}}, [[1, 2], [3]], {"type": "text"}),
    *({"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": None}),
]


def odd_values() -> st.SearchStrategy[Any]:
    """Any JSON value, odd ones first: wrong types, no numbers, half characters, nesting."""
    leaves = st.sampled_from(_LEAVES) | st.text(max_size=5) | st.integers() | st.floats()
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=4,
    )


def with_odd_fields(body: dict[str, Any], fields: Iterable[str]) -> st.SearchStrategy[Any]:
    """A good body, some of whose fields are odd or gone."""
    names = st.sampled_from(sorted({*body, *fields}))
    changes = st.dictionaries(names, odd_values(), max_size=3)
    gone = st.sets(names, max_size=1)
    return st.builds(
        lambda more, less: {k: v for k, v in {**body, **more}.items() if k not in less},
        changes,
        gone,
    )
