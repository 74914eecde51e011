"""What a kind of server is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_kvbench.experiment.engine import EngineSettings

if TYPE_CHECKING:  # a plan needs a kind's facts, not the client that asks servers
    from pytest_kvbench.engines.probe import Probe

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


def _tells_nothing(_probe: Probe) -> dict[str, str]:
    return {}  # hosted servers say next to nothing of themselves


@dataclass(frozen=True)
class Kind:
    """One kind of server. Importing it needs no HTTP client: a plan reads it and asks nobody.

    Attributes:
        control: the server's word for the type of the full cache.
        bits: bits a value, by the KV types that it takes as policies.
        params: the parameters of each of those policies.
        is_embedded: whether it is our own server: it takes the policies of `policies.table`, is
            told where a question begins, and answers all arms of an example in one reply, from
            one prefill. All others are one server an arm.
        sends_key: whether requests carry the key of the environment.
        tell: asks a server for what may change an answer.
        by_address: whether that is not enough to know it again, and its address is needed too.
        extras: fields of every request, which switch off what a server would add of its own.
        size: measures a token's share of the cache, in bytes where `in_bytes`, else in bits a
            value; None where a server does not tell.
        has_slots: whether one that we start answers `launch.parallel` requests at a time.
        start: how we start one; None where we cannot.
    """

    control: str = "auto"
    bits: Mapping[str, float] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    is_embedded: bool = False
    sends_key: bool = True
    tell: Callable[[Probe], dict[str, str]] = _tells_nothing
    by_address: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)
    size: Callable[[Probe], float | None] | None = None
    in_bytes: bool = False
    has_slots: bool = False
    start: Startable | None = None

    @property
    def types(self) -> tuple[str, ...]:
        """All KV types that it takes, the control's first."""
        return (self.control, *self.bits)
