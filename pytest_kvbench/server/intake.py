"""From a parsed request to a job: the prompt in tokens, the arms checked, limits kept."""

from __future__ import annotations

import bisect
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pytest_kvbench.errors import UsageError
from pytest_kvbench.own.classes import is_spec
from pytest_kvbench.policies.own import CLASSES
from pytest_kvbench.policies.table import Policy, catalogue, checked, min_tokens
from pytest_kvbench.records import FULL_CACHE, Params
from pytest_kvbench.server.drawing import Sampling
from pytest_kvbench.server.jobs import ArmSpec, Event, Force, Job, removed
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.protocol import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    KvArm,
    Message,
)

_MOST_CHARACTERS = 128  # of a token: the longest of any vocabulary are runs of blanks
_BOUNDARY = "\u241e\u2063kvbench\u2063\u241e"  # in no real prompt: a symbol and invisible marks


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens. `context` counts the tokens before the question, where that is known."""

    ids: list[int]
    context: int | None = None


def chat_prompt(model: LocalModel, messages: list[Message]) -> Prompt:
    """The prompt of a chat, split before the last part of the last message that asks."""
    text = _render(model, messages)
    ids, ends = model.encode(text)
    return Prompt(ids, _tokens_before(ends, _boundary(model, messages)))


def completion_prompts(
    model: LocalModel, prompt: str | list[int], arms: list[KvArm]
) -> list[Prompt]:
    """The prompt of a completion, split at each arm's `context_chars`."""
    if isinstance(prompt, list):
        _check_tokens(model, prompt, "prompt")
        return [Prompt(prompt)] * len(arms)
    ids, ends = model.encode(prompt, special=True)
    return [Prompt(ids, _tokens_before(ends, arm.context_chars)) for arm in arms]


def make_job(
    model: LocalModel, request: ChatRequest | CompletionRequest, emit: Callable[[Event], None]
) -> Job:
    """The job that answers `request`.

    Raises:
        ApiError: 400, for everything about the request that cannot be served.
    """
    if request.n not in (None, 1, len(request.arms)):
        raise ApiError(
            400,
            f"n is {request.n}; valid: 1, or a list of arms in kv.",
            code="invalid_value",
            param="n",
        )
    _check_fits_at_all(model, request)
    prompts = _prompts(model, request)
    ids = prompts[0].ids
    force = _force(model, request)
    asked = len(force.reference) if force and force.reference else request.token_limit
    return Job(
        ids=ids,
        arms=[_arm(model, arm, prompt) for arm, prompt in zip(request.arms, prompts, strict=True)],
        max_tokens=_max_tokens(model, len(ids), asked, request.field),
        sampling=_sampling(request),
        stops=request.stops,
        emit=emit,
        force=force,
        created=time.perf_counter(),  # no wait for the device: others are served meanwhile
    )


def _prompts(model: LocalModel, request: ChatRequest | CompletionRequest) -> list[Prompt]:
    if isinstance(request, ChatRequest):
        return [chat_prompt(model, request.messages)] * len(request.arms)
    return completion_prompts(model, request.prompt, request.arms)


def _force(model: LocalModel, request: ChatRequest | CompletionRequest) -> Force | None:
    if request.force is None:
        return None
    _check_tokens(model, request.force.reference or [], "force.reference")
    return Force(request.force.reference)


def _check_tokens(model: LocalModel, ids: Sequence[int], field: str) -> None:
    if max(ids, default=0) >= model.backend.get_vocab_size():
        message = f"{field}: a token id is outside the vocabulary."
        raise ApiError(400, message, code="bad_token", param=field)


def _render(model: LocalModel, messages: list[Message]) -> str:
    if model.tokenizer.chat_template is None:
        raise ApiError(
            400, "This model has no chat template; use /v1/completions.", code="no_chat_template"
        )
    try:
        return model.render([{"role": one.role, "content": one.text} for one in messages])
    except Exception as error:  # a template is a program: whatever it meets lies in the messages
        raise ApiError(
            400, f"messages: the chat template refuses them: {error}", code="invalid_messages"
        ) from error


def _boundary(model: LocalModel, messages: list[Message]) -> int | None:
    """The character of the rendered chat at which the question begins, if parts say so."""
    asking = [index for index, message in enumerate(messages) if message.role != "assistant"]
    parts = messages[asking[-1]].content if asking else ""
    if isinstance(parts, str) or len(parts) < 2:
        return None
    texts = [part.text for part in parts]
    marked = list(messages)
    content = "".join([*texts[:-1], _BOUNDARY, texts[-1]])
    marked[asking[-1]] = Message(role=messages[asking[-1]].role, content=content)
    at = _render(model, marked).find(_BOUNDARY)
    return at if at > 0 else None


def _check_fits_at_all(model: LocalModel, request: ChatRequest | CompletionRequest) -> None:
    """Refuse what no tokenizer could make short enough, before it is tokenized."""
    most = model.context_length * _MOST_CHARACTERS
    if request.size > most:
        raise ApiError(
            400,
            f"This model's context has {model.context_length} tokens, at most {most} characters; "
            f"the prompt has {request.size}.",
            code="context_length_exceeded",
            param=request.field,
        )


def _tokens_before(ends: list[int], character: int | None) -> int | None:
    """How many tokens end at or before `character`: one across it belongs to the question."""
    return None if character is None else bisect.bisect_right(ends, character)


def _arm(model: LocalModel, arm: KvArm, prompt: Prompt) -> ArmSpec:
    _check_classes(model, arm)
    policy, params = _policy(arm)
    _check_budget(arm)
    if arm.question_aware or arm.policy == FULL_CACHE:
        spec = ArmSpec(policy, params, arm.budget)
    else:
        spec = ArmSpec(policy, params, arm.budget, _context(prompt))
        _check_attainable(spec, len(prompt.ids))
    _check_long_enough(spec, len(prompt.ids))
    return spec


def _check_classes(model: LocalModel, arm: KvArm) -> None:
    """Refuse classes that this server was not started with: a request brings no program."""
    for name in [arm.policy, *_texts(arm.params)]:
        if is_spec(CLASSES.spec_of(name)) and name not in model.classes:
            raise ApiError(
                400,
                f"kv: {name!r} is a class that this server was not started with: --policy {name}.",
                code="unknown_policy",
                param="kv.policy",
            )
    for name, digest in arm.sources.items():
        if name in model.classes and model.sources.get(name) != digest:
            raise ApiError(
                400,
                f"kv: the class {name!r} has changed since this server was started; start it "
                "again.",
                code="other_source",
                param="kv.sources",
            )


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _policy(arm: KvArm) -> tuple[Policy, Params]:
    try:
        return checked(arm.policy, arm.params)
    except UsageError as error:
        known = arm.policy in catalogue() or is_spec(arm.policy)
        code, param = ("invalid_params", "params") if known else ("unknown_policy", "policy")
        raise ApiError(
            400, f"kv: {error.what} {error.hint}", code=code, param=f"kv.{param}"
        ) from error


def _check_budget(arm: KvArm) -> None:
    if not 0 < arm.budget <= 1:
        raise _budget_error(f"budget is {arm.budget:g}; valid: greater than 0, at most 1.")
    if 1 - arm.budget == 1:
        raise _budget_error(f"budget {arm.budget:g} is too small to be told from 0.")
    if arm.policy == FULL_CACHE and arm.budget != 1:
        raise _budget_error(f"policy none keeps everything: budget is {arm.budget:g}, valid: 1.")


def _context(prompt: Prompt) -> int:
    """The number of context tokens of an arm that is not question-aware."""
    if prompt.context is None:
        raise ApiError(
            400,
            "kv: question_aware is false, but the prompt does not say where the question begins. "
            "In a chat, give the last user message's content as a list of text parts, the last "
            "one being the question; for a completion, give kv.context_chars.",
            code="no_question",
            param="kv.question_aware",
        )
    if not 0 < prompt.context < len(prompt.ids):
        raise ApiError(
            400,
            f"kv: of {len(prompt.ids)} prompt tokens {prompt.context} are context; "
            "question_aware: false needs at least one of context and one of question.",
            code="no_question",
            param="kv.question_aware",
        )
    return prompt.context


def _check_attainable(spec: ArmSpec, tokens: int) -> None:
    context = spec.context or tokens
    if (1 - removed(spec, tokens)) * context < 1:
        question = tokens - context
        raise _budget_error(
            f"budget {spec.budget:g} of {tokens} prompt tokens leaves nothing of the context, "
            f"because the question alone has {question} tokens; valid with this prompt: "
            f"at least {(question + 1) / tokens:.4f}."
        )


def _check_long_enough(spec: ArmSpec, tokens: int) -> None:
    window = spec.context or tokens
    needed = min_tokens(spec.policy, spec.params)
    if window < needed:
        raise ApiError(
            400,
            f"kv: policy {spec.policy.name} needs at least {needed} tokens to work on, "
            f"and has {window}"
            + (f" (set {spec.policy.needs} lower)." if spec.policy.needs else "."),
            code="prompt_too_short",
            param="kv.policy",
        )


def _max_tokens(model: LocalModel, tokens: int, asked: int | None, field: str) -> int:
    room = model.context_length - tokens
    if room < (asked or 1):
        raise ApiError(
            400,
            f"This model's context has {model.context_length} tokens; the prompt has {tokens} and "
            f"{asked or 1} new ones were asked for, {tokens + (asked or 1)} together.",
            code="context_length_exceeded",
            param=field,
        )
    if tokens == 0:
        raise ApiError(400, "The prompt is empty.", code="empty_prompt", param="prompt")
    return asked or room


def _sampling(request: ChatRequest | CompletionRequest) -> Sampling:
    """OpenAI's defaults: temperature 1, everything may be drawn, a seed of its own."""
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=secrets.randbits(62) if request.seed is None else request.seed,
    )


def _budget_error(message: str) -> ApiError:
    return ApiError(400, f"kv: {message}", code="invalid_budget", param="kv.budget")
