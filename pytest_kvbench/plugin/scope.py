"""The suffix by which a worker says which of its items belong together.

Appended to the ids just before a worker reports its collection; the controller schedules by it
and takes it off every report, so that nobody else sees it. (`xdist_group` marks would need
--dist loadgroup, which stopped grouping under pytest 9.2.)
"""

from __future__ import annotations

_SUFFIX = "@kvbench:"


def with_scope(nodeid: str, scope: str) -> str:
    """The id a worker reports."""
    return f"{nodeid}{_SUFFIX}{scope}"


def without_scope(nodeid: str) -> str:
    """The id as pytest made it."""
    return nodeid.partition(_SUFFIX)[0]


def scope_of(nodeid: str) -> str:
    """The scope in an id; empty for a foreign item."""
    return nodeid.partition(_SUFFIX)[2]
