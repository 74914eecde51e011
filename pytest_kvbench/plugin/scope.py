"""The suffix by which a worker says which of its items belong together.

It is in the ids only while a worker reports its collection: the controller schedules by it, and
nothing else sees it. (`xdist_group` marks would need --dist loadgroup, which stopped grouping
under pytest 9.2, where an item's id is an object of its own.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

_SUFFIX = "@kvbench:"


def with_scope(nodeid: str, scope: str) -> str:
    """The id a worker reports."""
    return f"{nodeid}{_SUFFIX}{scope}"


def without_scope(nodeid: str) -> str:
    """The id as pytest made it."""
    return nodeid.partition(_SUFFIX)[0]


def scope_of(nodeid: str) -> str:
    """The scope in an id, `GROUP/UNIT`; empty for a foreign item."""
    return nodeid.partition(_SUFFIX)[2]


def group_of(nodeid: str) -> str:
    """The experiment's group; empty for a foreign item."""
    return scope_of(nodeid).partition("/")[0]


def unit_of(nodeid: str) -> str:
    """Items of one unit run on one worker, in order; empty for a foreign item."""
    return scope_of(nodeid).partition("/")[2]


@contextlib.contextmanager
def scopes_in_ids(scopes: Mapping[pytest.Item, str]) -> Iterator[None]:
    """Inside, the items' ids carry their scopes."""
    plain = {item: item.nodeid for item in scopes}
    for item, scope in scopes.items():
        _rename(item, with_scope(item.nodeid, scope))
    try:
        yield
    finally:
        for item, nodeid in plain.items():
            _rename(item, nodeid)


def _rename(item: Any, nodeid: str) -> None:
    # An item has no public way to change its id; xdist's own loadgroup does it as in the `else`.
    if hasattr(item, "_id"):  # pytest 9.2 and later
        item._id = type(item._id).parse(nodeid)
    else:
        item._nodeid = nodeid
