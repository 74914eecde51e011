"""The bodies of replies as clients get them: OpenAI's keys, and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict


class Bytes(TypedDict):
    """Those of a cache at one moment, with the fields of `jobs.Moment`."""

    kept_bytes: int
    full_bytes: int


class CacheBody(TypedDict):
    """`kv`: what one arm's cache was, with the fields of `jobs.ArmReport`."""

    policy: str
    budget: float
    achieved: float
    kept_bytes: int
    full_bytes: int
    kept_tokens: float
    question_aware: bool
    note: str
    simulated: NotRequired[bool]
    while_decoding: NotRequired[Mapping[str, Bytes]]
    error: NotRequired[str]


class ForcedBody(TypedDict):
    """`forced`: what one arm says of a reply, token by token, with the fields of `jobs.Forced`.

    `k`: of so many likeliest tokens; None: of the whole vocabulary.
    """

    k: int | None
    reference: Sequence[int]
    nll: Sequence[float]
    top: Sequence[int]
    top_nll: Sequence[float]
    reference_top_nll: Sequence[float]
    overlap: Sequence[float]
    kld: Sequence[float]


class Message(TypedDict):
    """A message, or what a piece adds to it."""

    role: NotRequired[str]
    content: str


class ChoiceBody(TypedDict):
    """One arm's answer, or what a piece adds to it: a message, a delta or a text."""

    index: int
    message: NotRequired[Message]
    delta: NotRequired[Message]
    text: NotRequired[str]
    finish_reason: str | None
    logprobs: None
    completion_tokens: NotRequired[int]
    kv: NotRequired[CacheBody]
    forced: NotRequired[ForcedBody]


class Cached(TypedDict):
    """Of a prompt's tokens those that were at hand."""

    cached_tokens: int


class Usage(TypedDict):
    """Tokens, new ones summed over the arms."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Cached


class TimingsBody(TypedDict):
    """Seconds, with the fields of `jobs.Timings`."""

    queue_s: float
    prefill_s: float
    compress_s: float
    decode_s: float
    force_s: NotRequired[float]


class Tail(TypedDict):
    """What a reply ends with."""

    usage: Usage
    timings: TimingsBody


class ReplyBody(TypedDict):
    """A reply, or a piece of one; its last piece has `usage` and `timings`."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChoiceBody]
    usage: NotRequired[Usage]
    timings: NotRequired[TimingsBody]


class Refused(TypedDict):
    """Why a request is not served, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """The body of a request that is not served."""

    error: Refused
