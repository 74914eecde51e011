"""What is read of a class that shrinks a cache: plain data, said by one process to others."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from pytest_kvbench.policies.params import Kind
from pytest_kvbench.policies.policy import Serving


class KindEntry(TypedDict):
    """What a parameter may be, by its annotation; `kind` is "" where no YAML can give it."""

    kind: Kind
    choices: NotRequired[list[str]]
    optional: NotRequired[bool]


class ParamEntry(KindEntry):
    """A parameter of a constructor."""

    default: bool | int | float | str | None
    required: bool


class PressEntry(TypedDict):
    """A class: see `policy.Policy` for what its keys mean. The pinned file has no notes."""

    name: str
    press: str
    note: NotRequired[str]
    paper: str
    params: dict[str, ParamEntry]
    serving: Serving
    eager: bool
    dial: str
    score_uses_budget: bool


class Presses(TypedDict):
    """Those of one version of kvpress, and the digest of its source."""

    source: str
    presses: list[PressEntry]
