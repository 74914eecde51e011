"""The body of a request to an OpenAI-compatible server: a prompt and an arm as JSON fields.

The format is OpenAI's (Chat Completions and Completions); the embedded server's own fields are in
`kinds/local`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import orjson

from pytest_kvbench.engines.policies import split
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.records import Params, Prompt, Request
from pytest_kvbench.wire.sound import Fields

Body = tuple[str, Fields]
"""The path below the `/v1`, and the fields of the JSON object that is posted there."""


def as_json(fields: Fields) -> bytes:
    """The bytes of a body: `json` takes as long over a long prompt as all else a request costs."""
    try:
        return orjson.dumps(fields)
    except TypeError:  # an integer beyond 64 bits, of a user's `extra_body`
        return json.dumps(fields).encode()


_STREAMED: Fields = {"stream": True, "stream_options": {"include_usage": True}}


def one_arm(settings: EngineSettings, requests: Sequence[Request], extras: Fields) -> Body:
    """The body that asks the one of `requests`, with the kind's `extras` and the user's fields.

    A field that the user sets to null is not sent.
    """
    (request,) = requests
    prompt, sampling = request.prompt, request.arm.sampling
    chat = prompt.chat if settings.api == "auto" else settings.api == "chat"
    body: dict[str, object] = {
        "model": settings.model,
        **(chat_fields(prompt, prompt.head + prompt.tail) if chat else {"prompt": prompt.text}),
        "max_tokens": prompt.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed + request.replicate,
        **({"stop": list(prompt.stop)} if prompt.stop else {}),
        **(_STREAMED if settings.stream else {}),
        **extras,
        **settings.extra_body,
    }
    sent = {name: value for name, value in body.items() if value is not None}
    return "/chat/completions" if chat else "/completions", sent


class ArmFields(TypedDict):
    """An arm as a server of ours takes it.

    `sources`: the digests of users' classes in the policy. `context_chars`: of a plain prompt, how
    long it is before the question.
    """

    policy: str
    budget: float
    question_aware: NotRequired[bool]
    params: NotRequired[Params]
    sources: NotRequired[Mapping[str, str]]
    context_chars: NotRequired[int]


def arm_fields(request: Request) -> ArmFields:
    """The arm of a request, as it stands in `kv`."""
    arm = request.arm
    policy, params, digests = split(arm)
    fields: ArmFields = {
        "policy": policy,
        "budget": arm.budget,
        "question_aware": arm.question_aware,
        "params": params,
    }
    if digests:
        fields["sources"] = digests
    return fields


def chat_fields(prompt: Prompt, content: str | list[dict[str, str]]) -> Fields:
    """The messages, the last one with that `content`, and the tools where there are any."""
    talk = prompt.conversation
    tools = {"tools": list(talk.tools)} if talk.tools else {}
    return {"messages": [*talk.turns, {**talk.last, "content": content}], **tools}
