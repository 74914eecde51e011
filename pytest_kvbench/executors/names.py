"""The names that hooks gave to classes of users, where other processes look them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_kvbench.engines.own import CLASSES as ENGINES
from pytest_kvbench.policies.own import CLASSES as POLICIES

Names = Mapping[str, Mapping[str, str]]
"""By kind, each name's class: plain data."""


def brought_here() -> Names:
    """The names that this process was given."""
    return {classes.kind: dict(classes.brought) for classes in (POLICIES, ENGINES)}


def with_names(names: Names, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function where these names are known; runs in a worker, which loads no conftest."""
    for classes in (POLICIES, ENGINES):
        classes.bring(names[classes.kind])
    return function(*args)
