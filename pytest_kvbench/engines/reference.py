"""Asks a server about each token of one reply, the full cache's own: forced, as nothing is drawn.

The full cache replies once; then its server, and that of every arm, is asked about that reply. How
a server is asked is its kind's: see `Forcing`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_kvbench.divergence import named
from pytest_kvbench.divergence.named import Step
from pytest_kvbench.divergence.records import Divergence, Token, UnsoundError
from pytest_kvbench.engines import completion, logprobs
from pytest_kvbench.engines.base import Reply
from pytest_kvbench.engines.body import Body
from pytest_kvbench.records import Answer, Telemetry
from pytest_kvbench.wire import sound

if TYPE_CHECKING:
    from pytest_kvbench.engines.balance import Client
    from pytest_kvbench.engines.kinds.base import Kind

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Forcing:
    """How a kind of server is asked about a reply.

    Attributes:
        prompt: the tokens of the prompt that the fields of a request make.
        steps: the positions of a reply after a prompt, both in tokens; last, fields of the request.
        extras: fields with which a reply names its tokens by ids.
    """

    prompt: Callable[[Client, Fields], Awaitable[list[int]]]
    steps: Callable[[Client, Sequence[int], Sequence[Token], Fields], Awaitable[list[Step]]]
    extras: Fields = field(default_factory=dict)


Compared = tuple[Answer, Divergence]
"""A reply, and how far what was said of it is from what the full cache says."""


async def full_cache(http: Client, kind: Kind, key: str, body: Body) -> Compared:
    """The full cache's reply to a request, and what it says of it when it is asked as others are.

    Raises:
        NotACompletionError, RequestFailedError: there is none.
        UnsoundError: the server does not name its tokens.
    """
    path, fields = body
    clocked, forcing = _Clocked(http), forcing_of(kind)
    reply = await clocked.post(path, {**fields, **asking(path), **forcing.extras})
    (answer,) = kind.read([key], reply.data, reply.latency_s)
    if not isinstance(answer, Answer):
        raise completion.NotACompletionError(answer.message)
    tokens = [step.token for step in logprobs.of_reply(sound.objects(reply.data["choices"])[0])]
    steps = await _asked(clocked, forcing, fields, answer, tokens)
    return clocked.timed(answer), named.own(steps, "forced", logprobs.K)


async def arm(http: Client, kind: Kind, key: str, body: Body, full: Compared) -> Compared:
    """The full cache's reply as an arm's own, and how far what the arm says of it is from that.

    Args:
        http: the arm's server.
        kind: what it is.
        key: of the request.
        body: what would ask it for a reply of its own.
        full: what `full_cache` gave.

    Raises:
        RequestFailedError: the server gives no answer.
        UnsoundError: it names no tokens, or tokenizes the prompt otherwise than the full cache's.
    """
    answer, record = full
    clocked = _Clocked(http)
    reply = record.positions.reference
    steps = await _asked(clocked, forcing_of(kind), body[1], answer, reply)
    return clocked.timed(replace(answer, key=key)), named.against(record, steps)


def forcing_of(kind: Kind) -> Forcing:
    """How a kind is asked about a reply that is given."""
    if kind.forcing is None:
        raise ValueError("a kind that cannot be asked about a reply")
    return kind.forcing


def asking(path: str) -> dict[str, Any]:
    """The fields with which a reply names the likeliest tokens at each of its positions."""
    if path.endswith("/chat/completions"):
        return {"logprobs": True, "top_logprobs": logprobs.K}
    return {"logprobs": logprobs.K}


async def _asked(
    http: Client, forcing: Forcing, fields: Fields, answer: Answer, reply: Sequence[Token]
) -> list[Step]:
    prompt = await forcing.prompt(http, fields)
    counted = answer.telemetry.prompt_tokens
    if counted is not None and counted != len(prompt):
        raise UnsoundError(
            f"a prompt has {len(prompt)} tokens by /tokenize and {counted} where it is answered; "
            "valid: one tokenizer and chat template"
        )
    return await forcing.steps(http, prompt, reply, fields)


@dataclass
class _Clocked:
    """A client, and how long its replies took, all together."""

    http: Client
    latency_s: float = 0.0

    async def post(self, path: str, body: dict[str, Any], *, stream: bool = False) -> Reply:
        return self._clocked(await self.http.post(path, body, stream=stream))

    async def ask(self, path: str, body: dict[str, Any]) -> Reply:
        return self._clocked(await self.http.ask(path, body))

    async def aclose(self) -> None:
        await self.http.aclose()

    def timed(self, answer: Answer) -> Answer:
        """The answer with this time, and the tokens it had: nothing else was measured of it."""
        tokens = answer.telemetry.prompt_tokens, answer.telemetry.completion_tokens
        return replace(answer, telemetry=Telemetry(self.latency_s, None, *tokens))

    def _clocked(self, reply: Reply) -> Reply:
        self.latency_s += reply.latency_s
        return reply
