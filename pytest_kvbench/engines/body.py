"""The body of a request to an OpenAI-compatible server: a prompt and an arm as JSON fields.

The format is OpenAI's (Chat Completions and Completions); the embedded server's own fields are in
`kinds/local`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from pytest_kvbench.engines.policies import split
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.records import Prompt, Request

Body = tuple[str, dict[str, Any]]
"""The path below the `/v1`, and the fields of the JSON object that is posted there."""


def as_json(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a body: `json` takes as long over a long prompt as all else a request costs."""
    try:
        return orjson.dumps(fields)
    except TypeError:  # an integer beyond 64 bits, of a user's `extra_body`
        return json.dumps(fields).encode()


_STREAMED: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def one_arm(
    settings: EngineSettings, requests: Sequence[Request], extras: Mapping[str, Any]
) -> Body:
    """The body that asks the one of `requests`, with the kind's `extras` and the user's fields.

    A field that the user sets to null is not sent.
    """
    (request,) = requests
    prompt, sampling = request.prompt, request.arm.sampling
    chat = prompt.chat if settings.api == "auto" else settings.api == "chat"
    body: dict[str, Any] = {
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


def arm_fields(request: Request) -> dict[str, Any]:
    """An arm as a server of ours takes it, in `kv`."""
    arm = request.arm
    policy, params, digests = split(arm)
    return {
        "policy": policy,
        "budget": arm.budget,
        "question_aware": arm.question_aware,
        "params": params,
        **({"sources": dict(digests)} if digests else {}),
    }


def chat_fields(prompt: Prompt, content: str | list[dict[str, str]]) -> dict[str, Any]:
    """The messages, the last one with that `content`, and the tools where there are any."""
    talk = prompt.conversation
    tools = {"tools": list(talk.tools)} if talk.tools else {}
    return {"messages": [*talk.turns, {**talk.last, "content": content}], **tools}
