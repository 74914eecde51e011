"""Imports a class of a user's, `./FILE.py:Class` or `MODULE:Class`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kvpress

from pytest_kvbench.errors import UsageError
from pytest_kvbench.own.classes import is_spec, parts
from pytest_kvbench.own.loading import load
from pytest_kvbench.policies.own import CLASSES

if TYPE_CHECKING:  # who only reads classes needs no model
    from pytest_kvbench.server.model import LocalModel


def with_classes(model: LocalModel, options: Sequence[str]) -> LocalModel:
    """A model to which these classes of users are known: `CLASS`, or `NAME=CLASS`.

    Raises:
        UsageError: one cannot be imported, or is no press.
    """
    named = dict(_named(option) for option in options)
    CLASSES.bring({name: spec for name, spec in named.items() if name != spec})
    return replace(
        model,
        classes={name: load_class(spec) for name, spec in named.items()},
        sources={name: CLASSES.digest(spec) for name, spec in named.items()},
    )


def _named(option: str) -> tuple[str, str]:
    name, _, spec = option.partition("=")
    if not is_spec(spec := spec or name):
        raise UsageError(
            f"--policy {option}: it is no class.",
            "Valid: ./FILE.py:Class, MODULE:Class, or NAME=CLASS.",
        )
    return name, spec


def load_class(spec: str) -> Any:
    """The class.

    Raises:
        UsageError: it cannot be imported, or is no press.
    """
    found = load(spec, "policy")
    if not (isinstance(found, type) and issubclass(found, kvpress.BasePress)):
        raise UsageError(
            f"policy {spec}: {parts(spec)[1]} is no press.",
            "Valid: a subclass of kvpress.BasePress, as of kvpress.ScorerPress.",
        )
    return found
