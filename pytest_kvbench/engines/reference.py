"""Asks servers how far their distributions are from the full cache's.

Forced: the full cache replies once; then its server, and that of every arm, is asked about each
token of that reply. How a server is asked is its kind's: see `Forcing`. Free: every arm replies by
itself, on any server that names the likeliest tokens, and is compared up to where it differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_kvbench.divergence import named
from pytest_kvbench.divergence.named import Step
from pytest_kvbench.divergence.records import Divergence, Token, UnsoundError
from pytest_kvbench.engines import completion, logprobs
from pytest_kvbench.engines.base import Reply
from pytest_kvbench.engines.body import Body
from pytest_kvbench.records import Answer, Telemetry
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.sound import Fields

if TYPE_CHECKING:
    from pytest_kvbench.engines.balance import Client
    from pytest_kvbench.engines.kinds.base import Kind


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
    clocked, forcing = _Clocked(http), forcing_of(kind)
    answer, choice = await _replied(clocked, kind, key, body)
    tokens = [step.token for step in logprobs.of_reply(choice)]
    steps = await _asked(clocked, forcing, body[1], answer, tokens)
    return clocked.timed(answer), named.own(steps, "forced", logprobs.K)


async def free(http: Client, kind: Kind, key: str, body: Body, full: Divergence | None) -> Compared:
    """A reply of its own, and how far it is from the full cache's, which is `full`; None: it is it.

    Raises:
        NotACompletionError, RequestFailedError: there is none.
        UnsoundError: the server names no tokens.
    """
    answer, choice = await _replied(http, kind, key, body)
    steps, ends = logprobs.of_reply(choice), logprobs.ends_unsaid(choice)
    if full is None:
        return answer, named.own(steps, "free", logprobs.K, ends=ends)
    return answer, named.against(full, steps, ends=ends)


async def arm(
    http: Client, kind: Kind, key: str, body: Body, full: Compared, *, treated: bool = True
) -> Compared:
    """The full cache's reply as an arm's own, and how far what the arm says of it is from that.

    Args:
        http: the arm's server.
        kind: what it is.
        key: of the request.
        body: what would ask it for a reply of its own.
        full: what `full_cache` gave.
        treated: whether it is another arm than the full cache.

    Raises:
        RequestFailedError: the server gives no answer.
        UnsoundError: it names no tokens, or tokenizes the prompt otherwise than the full cache's;
            or it is treated, and equal to the last digit: its pass does not read the cache.
    """
    answer, record = full
    clocked = _Clocked(http)
    reply = record.positions.reference
    steps = await _asked(clocked, forcing_of(kind), body[1], answer, reply)
    if treated and tuple(step.named for step in steps) == record.positions.named:
        raise UnsoundError(
            "what it says of the reply is the full cache's to the last digit: a pass over a prompt "
            "does not read this cache; valid: prefix, of free replies"
        )
    return clocked.timed(replace(answer, key=key)), named.against(record, steps)


def forcing_of(kind: Kind) -> Forcing:
    """How a kind is asked about a reply that is given."""
    if kind.forcing is None:
        raise ValueError("a kind that cannot be asked about a reply")
    return kind.forcing


def asking(path: str) -> Fields:
    """The fields with which a reply names the likeliest tokens at each of its positions."""
    if path.endswith("/chat/completions"):
        return {"logprobs": True, "top_logprobs": logprobs.K}
    return {"logprobs": logprobs.K}


async def _replied(http: Client, kind: Kind, key: str, body: Body) -> tuple[Answer, Fields]:
    """A reply whose tokens are named, by ids where the server can, and the choice that holds it."""
    path, fields = body
    extras = kind.forcing.extras if kind.forcing else {}
    whole = {name: value for name, value in fields.items() if not name.startswith("stream")}
    reply = await http.post(path, {**whole, **asking(path), **extras})
    (answer,) = kind.read([key], reply.data, reply.latency_s)
    if not isinstance(answer, Answer):
        raise completion.NotACompletionError(answer.message)
    return answer, sound.objects(reply.data["choices"])[0]


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

    async def post(self, path: str, body: Fields, *, stream: bool = False) -> Reply:
        return self._clocked(await self.http.post(path, body, stream=stream))

    async def ask(self, path: str, body: Fields) -> Reply:
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
