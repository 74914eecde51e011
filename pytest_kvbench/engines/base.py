"""What an engine is to the rest: a source that can be identified before it runs, and a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_kvbench.engines.policies import may_mask, slack_of
from pytest_kvbench.records import Answer, Arm, Failure, FailureKind, Proof, Request, Telemetry
from pytest_kvbench.wire.sound import Fields

BUDGET_TOLERANCE = 0.02
"""How far the achieved budget may be from the nominal one (absolute) and still be that budget.

A prompt so short that one token is more may be off by one token.
"""


_SAME = 0.005
"""Bytes held and bytes in use are the same up to this share: some servers round theirs."""


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do.

    `arms_per_request`: how many arms of one example fit into one request (1: no sweeps).
    `places`: requests in flight at most; further ones wait.
    """

    arms_per_request: int
    places: int


@dataclass(frozen=True)
class TokenizerServer:
    """A server that tokenizes for us: the one that has the control.

    `address` gives its base URL, and starts it where it is one of ours. `vocabulary` names what it
    tokenizes with, where that is known without asking; else it is asked at once.
    `places`: calls at once.
    """

    model: str
    address: Callable[[], str]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a key
    vocabulary: str = ""
    places: int = 1


class Engine(Protocol):
    """A running engine, used from one event loop."""

    @property
    def capabilities(self) -> Capabilities:
        """How many arms and requests it takes at a time."""

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """Answer requests for the same example, in order; one request unless the engine sweeps.

        Raises:
            EngineError: the server is gone; nothing more will be answered.
        """

    async def aclose(self) -> None:
        """Close its connections; nothing is asked afterwards."""


class EngineSource(Protocol):
    """An engine that may not run yet."""

    def check(self) -> None:
        """Refuse at once what can never run: a model or an extra that is not there.

        Raises:
            UsageError: naming the command that mends it.
        """

    def fingerprint(self) -> dict[str, str]:
        """All facts of its servers that may change an answer, joined as by `fingerprint.merge`.

        Where possible, no server is started for it.

        Raises:
            EngineError: a server that runs already does not say who it is.
        """

    def tokenizer_folder(self) -> Path | None:
        """The folder of the serving model's `tokenizer.json`; None where it is not here."""

    def tokenizer_server(self) -> TokenizerServer | None:
        """A server that tokenizes; None where the model's files are here."""

    def start(self) -> Engine:
        """A client of the running servers, started if need be, now or when one is asked.

        Raises:
            EngineError: with the last lines of the server's log.
        """


def proof_of(arm: Arm, telemetry: Telemetry | None) -> Proof:
    """Whether an answer shows that its arm's budget was applied.

    A report of what is kept that is off the budget by more than `BUDGET_TOLERANCE` is proof of
    the contrary, unless that is the policy's own nature; no report is no proof. A control's budget
    is 1. Where more bytes are held than are in use, nothing was freed: it is `simulated`.
    """
    if telemetry is None or telemetry.achieved is None:
        return "unverified"
    one_token = 1 / telemetry.prompt_tokens if telemetry.prompt_tokens else 0.0
    slack = slack_of(arm, telemetry.prompt_tokens or 0)
    off = abs(telemetry.achieved - arm.budget)
    idle = slack > 0 and telemetry.achieved >= 1 > arm.budget
    if idle or off > max(BUDGET_TOLERANCE, one_token, slack):
        return "not-applied"
    masked = may_mask(arm) and _held(telemetry) - telemetry.achieved > _SAME
    return "simulated" if masked else "proven"


def _held(telemetry: Telemetry) -> float:
    """The share of the full cache's bytes that is held; 0 where it is not told."""
    return (telemetry.kept_bytes or 0) / (telemetry.full_bytes or 1)


@dataclass(frozen=True)
class Reply:
    """A decoded response, and the wall times of the try that brought it, in seconds.

    `ttft_s`: to the first piece of text, where the reply was streamed. `waited_s`: for rate limits,
    ours and the server's, before it was sent.
    """

    data: Fields
    latency_s: float
    ttft_s: float | None = None
    waited_s: float = 0.0


class RequestFailedError(Exception):
    """One request got no usable reply, after all tries."""

    def __init__(
        self, kind: FailureKind, message: str, attempts: int = 1, *, status: int | None = None
    ) -> None:
        self.kind: FailureKind = kind
        self.attempts = attempts
        self.status = status
        super().__init__(message)


class NotAskedError(RequestFailedError):
    """A request that was not sent: its server fails every other (see `breaker`)."""

    def __init__(self, message: str) -> None:
        super().__init__("ENGINE_ERROR", message, attempts=0)


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that carries a key, if there is one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
