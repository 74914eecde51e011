"""What a kind of server is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.experiment.engine import EngineSettings

Types = tuple[str, str]
"""The types of keys and values, in the server's own words."""


@dataclass(frozen=True)
class Startable:
    """How a kind of server is started by us.

    `check` refuses at once what cannot be; `facts` are those of the server to come, without
    starting it; `command` is its command line, given the KV types, the controller's pid, the file
    for its address and its threads.
    """

    check: Callable[[EngineSettings], None]
    facts: Callable[[EngineSettings, Types], dict[str, str]]
    command: Callable[[EngineSettings, Types, int, Path, int | None], list[str]]


@dataclass(frozen=True)
class Kind:
    """One kind of server.

    `extras` are fields of every request that switch off what a server would add of its own;
    `tell` asks what may change an answer; where that is not enough to know a server again, it is
    identified `by_address` too. `size` measures a token's share of the cache, in bytes
    where `in_bytes`, else in bits a value; None where a server does not tell.
    """

    tell: Callable[[Probe], dict[str, str]]
    extras: Mapping[str, Any] = field(default_factory=dict)
    size: Callable[[Probe], float | None] | None = None
    in_bytes: bool = False
    by_address: bool = False
    start: Startable | None = None
