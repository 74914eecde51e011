"""Reads completions: any JSON data into text, finish reason and telemetry, or one refusal.

Chat or plain, whole or put together from a stream, live or a batch's: all are read here. A field
that is not sound is missing; a reply whose text cannot be found is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_kvbench.divergence.records import UnsoundError
from pytest_kvbench.engines import forced
from pytest_kvbench.records import Answer, Failure, Telemetry
from pytest_kvbench.wire import bounded, finish, sound
from pytest_kvbench.wire.sound import Fields

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, *range(520, 525), 529})
"""HTTP statuses, and codes of reported errors, of faults that may pass: the request is repeated.

520 to 524 are what a proxy in front of a server says of it (Cloudflare's), 529 that it is
overloaded.
"""

_MESSAGES = ("message", "detail", "msg", "error_msg", "error_message")
_CODES = ("code", "status_code", "status", "error_code")
_STATUS = re.compile("[1-9][0-9]{2}")
_CALLS = "tool_calls"
_TEXT_FIELD = {"text": "text", "output_text": "text", "refusal": "refusal"}
"""The types of a content's parts that are text for the user: the field that holds it."""


class NotACompletionError(Exception):
    """A reply that holds no answer; the message says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the reply is not a completion: {reason}")


@dataclass(frozen=True)
class Fault:
    """An error that a reply reports although its HTTP status is that of a success.

    `passes`: whether it is worth asking again; None: it does not say.
    """

    message: str
    passes: bool | None


def read_one(
    keys: Sequence[str], data: object, latency_s: float | None, ttft_s: float | None = None
) -> list[Answer | Failure]:
    """The answer of one arm: the first choice of a reply.

    Args:
        keys: the request's alone.
        data: the reply.
        latency_s: seconds from sending to the whole reply; None where nobody waited: a batch.
        ttft_s: seconds to its first piece, where it was streamed.

    Raises:
        NotACompletionError: the reply holds no answer.
    """
    (key,) = keys
    return [_answer(key, _choices(data)[0], sound.fields(data), latency_s, ttft_s, arms=1)]


def read_arms(
    keys: Sequence[str], data: object, latency_s: float | None, ttft_s: float | None = None
) -> list[Answer | Failure]:
    """The answers of several arms, in order: a choice for each; arguments as of `read_one`.

    Raises:
        NotACompletionError: it has not as many choices, or their numbers are not those of arms.
    """
    by_index = {sound.count(sound.fields(c).get("index")): c for c in _choices(data)}
    # One more than was asked: the full cache, which all others are compared with.
    beside = int(forced.is_forced(_choices(data)) and len(by_index) == len(keys) + 1)
    whole = set(range(len(keys) + beside))
    if len(by_index) != len(_choices(data)) or set(by_index) != whole:
        raise NotACompletionError(f"its choices are not those of {len(keys)} arms")

    def arm(key: str, choice: object) -> Answer | Failure:
        if refused := _refused(choice):
            return Failure(key, "ENGINE_ERROR", refused)
        try:
            found = _answer(key, choice, sound.fields(data), latency_s, ttft_s, arms=len(keys))
            return replace(found, divergence=forced.divergence_of(choice, by_index[0]))
        except (NotACompletionError, UnsoundError) as refused:
            return Failure(key, "ENGINE_ERROR", str(refused))

    return [arm(key, by_index[index]) for index, key in enumerate(keys, start=beside)]


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text in its parts, without reasoning.

    Raises:
        NotACompletionError: it is something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(map(_part, content))
    raise NotACompletionError(f"content is {_kind(content)}")


def reasoning_of(message: Fields) -> str:
    """The reasoning that a server keeps apart from the text of a message or a delta.

    Its field is `reasoning_content` (DeepSeek) or `reasoning` (vLLM).
    """
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return reasoning if isinstance(reasoning, str) else ""


def error_of(data: object) -> str:
    """The message of an error that a reply reports; empty where there is none.

    It stands under `error`, as OpenAI has it, or a body without choices is the error itself: vLLM,
    gateways, FastAPI's `detail`. Where llama.cpp says that its context is too short, the setting
    that mends it is added.
    """
    details, error = _details(data), sound.fields(data).get("error")
    if not (details or error):
        return ""  # as of most replies, each of which is asked
    words = [details[name] for name in _MESSAGES if isinstance(details.get(name), str)]
    found = words or [
        inner["msg"] for inner in sound.objects(details.get("detail")) if "msg" in inner
    ]
    # Not yet cut to what is kept: a key that it repeats is taken out first.
    message = sound.message(
        next(filter(None, found), error or details.get("detail")), bounded.ERROR
    )
    if details.get("type") == "exceed_context_size_error":
        return f"{message}: raise engine.launch.context, or the server's --ctx-size"
    return message


def fault_in(reply: object, *, whole: bool = True) -> Fault | None:
    """The error that a reply reports, or its first choice, beside a text that ends there.

    Its code says whether it passes. Without one, a reply that was broken off is asked again.

    Args:
        reply: a reply, or an event of a stream.
        whole: whether nothing more comes, so that a finish reason of null is that of no ending.
    """
    choices = sound.objects(sound.fields(reply).get("choices"))
    return _reported(reply) or (_fault_of(choices[0], whole=whole) if choices else None)


def _fault_of(choice: Fields, *, whole: bool = True) -> Fault | None:
    """The error that a choice reports, or that its finish reason is."""
    if _refused(choice):
        return None  # one arm's own policy failed: the reply is whole, and others have answers
    reason = choice.get("finish_reason")
    is_null = whole and "finish_reason" in choice and reason is None
    reported = _reported({"error": choice.get("error")})
    if not is_null and finish.ending(reason) != "error":
        return reported
    if reported is None:
        said = "null" if is_null else finish.message_of(reason)
        return Fault(f"the server broke the reply off: finish_reason {said}", passes=True)
    return reported if reported.passes is not None else Fault(reported.message, passes=True)


def _refused(choice: object) -> str:
    """Why one arm of several has no answer; "" where it has one."""
    return sound.message(sound.fields(sound.fields(choice).get("kv")).get("error"))


def _reported(data: object) -> Fault | None:
    """The error that a reply reports in so many words."""
    message = error_of(data)
    if not message:
        return None
    details = _details(data)
    statuses = (
        _status(source.get(name)) for source in (details, sound.fields(data)) for name in _CODES
    )
    status = next((found for found in statuses if found is not None), None)
    return Fault(message, None if status is None else status in PASSING)


def _details(data: object) -> Fields:
    """What describes an error: the fields of `error`, else those of a body without choices."""
    body = sound.fields(data)
    if isinstance(error := body.get("error"), Mapping):
        return error
    return {} if "choices" in body else body


def _status(code: object) -> int | None:
    """The HTTP status that an error's code is, if it is one."""
    found = int(code) if isinstance(code, str) and _STATUS.fullmatch(code) else sound.count(code)
    return found if found is not None and 300 <= found < 600 else None


def error_message(content: bytes) -> str:
    """The message of an OpenAI-style error body, or the body's beginning."""
    try:
        message = error_of(sound.decoded(content))
    except ValueError:
        message = ""
    return message or sound.message(content.decode(errors="replace"), bounded.ERROR)


def _choices(data: object) -> list[Any]:
    choices = sound.fields(data).get("choices")
    if isinstance(choices, list) and choices:
        return choices
    raise NotACompletionError("it holds no choices")


def _answer(
    key: str,
    given: object,
    reply: Fields,
    latency_s: float | None,
    ttft_s: float | None,
    *,
    arms: int,
) -> Answer:
    """The answer that one choice of a reply holds."""
    choice = sound.fields(given)
    if (fault := _fault_of(choice)) is not None:
        raise NotACompletionError(fault.message)
    message, reason = sound.fields(choice.get("message")), choice.get("finish_reason")
    called = bool(sound.objects(message.get(_CALLS)) or sound.fields(message.get("function_call")))
    return Answer(
        key,
        _text(choice),
        _CALLS if called else _reason(reason),
        _telemetry(choice, reply, latency_s, ttft_s, arms),
        reasoning_of(message),
    )


def _reason(reason: object) -> str:
    """What is kept of a finish reason: what it means, where that is known; else its own word."""
    meaning = finish.ending(reason)
    return meaning if meaning in finish.KNOWN else finish.word_of(reason)


def _text(choice: Fields) -> str:
    if isinstance(message := choice.get("message"), Mapping):
        return text_of(message.get("content")) or text_of(message.get("refusal"))
    if "text" in choice:
        return text_of(choice["text"])
    raise NotACompletionError("a choice holds neither a message nor a text")


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise NotACompletionError(f"a part of the content is {_kind(part)}")
    kind = part.get("type", "text")
    field = _TEXT_FIELD.get(kind) if isinstance(kind, str) else None
    text = part.get(field) if field else ""
    if not isinstance(text, str):
        raise NotACompletionError(f"the text of a part of the content is {_kind(text)}")
    return text


def _telemetry(
    choice: Fields,
    reply: Fields,
    latency_s: float | None,
    ttft_s: float | None,
    arms: int,
) -> Telemetry:
    """Tokens, and the cache's bytes where the server says them. Of one arm the usage is its own."""
    usage, kv = sound.fields(reply.get("usage")), sound.fields(choice.get("kv"))
    # Waiting behind our own other requests says nothing about an answer.
    queued_s = sound.number(sound.fields(reply.get("timings")).get("queue_s")) or 0.0
    if latency_s is not None and queued_s <= latency_s:  # a longer one is no queue of this request
        latency_s -= queued_s
    details = sound.fields(usage.get("prompt_tokens_details"))
    spent = sound.fields(usage.get("completion_tokens_details"))
    return Telemetry(
        latency_s=latency_s,
        ttft_s=ttft_s,
        prompt_tokens=sound.count(usage.get("prompt_tokens")) or None,  # none has 0: not counted
        completion_tokens=sound.count((usage if arms == 1 else choice).get("completion_tokens")),
        achieved=sound.number(kv.get("achieved")),
        kept_bytes=sound.count(kv.get("kept_bytes")),
        full_bytes=sound.count(kv.get("full_bytes")),
        kept_tokens=sound.number(kv.get("kept_tokens")),
        cached_tokens=sound.count(details.get("cached_tokens")),
        reasoning_tokens=sound.count(spent.get("reasoning_tokens")),
        arms_in_request=arms,
        note=sound.message(kv.get("note")),
    )


def _kind(value: object) -> str:
    return f"a JSON {type(value).__name__}"
