"""What a kind of server is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_kvbench.engines import completion
from pytest_kvbench.engines.body import Body, one_arm
from pytest_kvbench.engines.reference import Forcing
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.records import Answer, Failure, Params, Request
from pytest_kvbench.wire.sound import Fields

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


class Reader(Protocol):
    """Reads a decoded reply to the requests of `keys`, live or a batch's."""

    def __call__(
        self,
        keys: Sequence[str],
        data: object,
        latency_s: float | None,
        ttft_s: float | None = None,
    ) -> list[Answer | Failure]:
        """An outcome for each key, in order.

        Raises:
            NotACompletionError: the reply holds no answers to these requests.
        """


def _no_facts(_probe: Probe) -> dict[str, str]:
    return {}  # hosted servers say next to nothing of themselves


def _no_classes(_kv: KV) -> Mapping[str, str]:
    return {}


def _no_folder(_settings: EngineSettings) -> Path | None:
    return None


@dataclass(frozen=True)
class Kind:
    """One kind of server. Importing it needs no HTTP client: a plan reads it and asks nobody.

    Attributes:
        control: the server's word for the type of the full cache.
        first_lever: the policy of a sanity set that names none; empty: nothing shrinks its cache
            that all such servers have.
        bits: bits a value, by the KV types that it takes as policies.
        params: the parameters of each of those policies.
        dtypes: the types of weights and activations that it serves.
        one_server: whether one server has all arms, each request saying which; else each arm has
            a server of its own.
        only_ours: whether a run always starts that server: none runs already at an address.
        identity: all that an arm's answers depend on, beside its policy's name and budget; None:
            what `kv.params` has.
        classes: users' classes that the server is to know, by their names, with their digests.
        folder: that of the model, for its tokenizer; None where it is not here.
        check_policy: refuses a policy that requests cannot name, or parameters of it; None where
            requests name none.
        fixed: the fraction that a policy always keeps, given the settings, its name and
            parameters; None where it takes the ladder.
        marks_question: whether a request says where the question begins.
        arms_per_request: arms of one example that one request may ask, from one prefill.
        body: the body of a request for some arms of one example, given the `extras`.
        extras: fields of every request, which switch off what a server would add of its own.
        read: the outcomes in a reply.
        measures: what it can say of how far distributions move, the one judged by default first.
        sends_key: whether requests carry the key of the environment.
        fingerprint: asks a server for what may change an answer.
        by_address: whether that is not enough to recognise it, and its address is needed too.
        size: measures a token's share of the cache, in bytes where `in_bytes`, else in bits a
            value; None where a server does not say.
        forcing: how it is asked about a reply that is given; None where it cannot be.
        repeats: whether its full cache, asked about one reply twice at once, says the same twice.
        takes_slots: whether one that we start is told in how many slots it decodes.
        has_slots: whether one that we start answers `launch.parallel` requests at a time.
        start: how we start one; None where we cannot.
    """

    control: str = "auto"
    first_lever: str = ""
    bits: Mapping[str, float] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    one_server: bool = False
    only_ours: bool = False
    identity: Callable[[KV, str], Params] | None = None
    classes: Callable[[KV], Mapping[str, str]] = _no_classes
    folder: Callable[[EngineSettings], Path | None] = _no_folder
    check_policy: Callable[[EngineSettings, str, Params], None] | None = None
    fixed: Callable[[EngineSettings, str, Params], float | None] | None = None
    marks_question: bool = False
    arms_per_request: int = 1
    body: Callable[[EngineSettings, Sequence[Request], Fields], Body] = one_arm
    extras: Fields = field(default_factory=dict)
    read: Reader = completion.read_one
    measures: tuple[str, ...] = ()
    sends_key: bool = True
    fingerprint: Callable[[Probe], dict[str, str]] = _no_facts
    by_address: bool = False
    size: Callable[[Probe], float | None] | None = None
    in_bytes: bool = False
    forcing: Forcing | None = None
    repeats: bool = False
    takes_slots: bool = False
    has_slots: bool = False
    start: Startable | None = None

    @property
    def types(self) -> tuple[str, ...]:
        """All KV types that it takes, the control's first."""
        return (self.control, *self.bits)

    def request_body(self, settings: EngineSettings, requests: Sequence[Request]) -> Body:
        """What asks for some arms of one example: at most `arms_per_request`."""
        return self.body(settings, requests, self.extras)
