"""One request for a test of one's own: asked at once, stored nowhere, judged by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pytest_kvbench.engines import arms
from pytest_kvbench.engines.own import AskedArm, Reply
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Site, source_of
from pytest_kvbench.records import FULL_CACHE, Answer, Cell, Failure, Prompt, Request
from pytest_kvbench.wire.conversation import Message

Messages = str | Sequence[Message]


def generate(experiment: Experiment, site: Site, messages: Messages, arm: AskedArm) -> Reply:
    """What the engine of an experiment answers under an arm.

    Args:
        experiment: names the engine; its tasks and policies do not matter.
        site: of the run, whose servers are asked.
        messages: one message of the user's, or its text.
        arm: the policy and how tokens are drawn.

    Raises:
        UsageError: the engine has no such policy, or the messages are not one of the user's.
        EngineError: there is no reply; with the engine's words.
    """
    asked = _with_policy(experiment, arm)
    arms.check_policy(asked.engine, asked.kv, arm.policy)
    cell = Cell("", 0, arm.policy, arm.budget)
    prompt = Prompt("", _text(messages), arm.max_tokens, arm.chat, tuple(arm.stop))
    request = Request(plan.arm_of(asked, cell, "", ""), "", 0, "", 0, prompt)
    outcome = asyncio.run(_answer(asked, site, request))
    if isinstance(outcome, Failure):
        raise EngineError(f"engine {asked.engine.name}: {outcome.message}")
    return _reply(outcome)


def _with_policy(experiment: Experiment, arm: AskedArm) -> Experiment:
    policies = () if arm.policy == FULL_CACHE else (arm.policy,)
    params = {**experiment.kv.params, **({arm.policy: dict(arm.params)} if arm.params else {})}
    kv = experiment.kv.model_copy(update={"policies": policies, "params": params})
    drawn = {"temperature": arm.temperature, "top_p": arm.top_p, "seed": arm.seed}
    sampling = experiment.sampling.model_copy(update={**drawn, "max_tokens": arm.max_tokens})
    return experiment.model_copy(update={"kv": kv, "sampling": sampling, "variants": {}})


def _text(messages: Messages) -> str:
    if isinstance(messages, str):
        return messages
    if [message.get("role") for message in messages] == ["user"]:
        return str(messages[0]["content"])
    raise UsageError(
        "engine.generate: it takes one message of the user's",
        "valid: a text, or [{'role': 'user', 'content': ...}]",
    )


async def _answer(experiment: Experiment, site: Site, request: Request) -> Answer | Failure:
    source = source_of(experiment, site)
    source.check()
    engine = await asyncio.to_thread(source.start)
    try:
        (outcome,) = await engine.answer([request])
    finally:
        await engine.aclose()
    return outcome


def _reply(answer: Answer) -> Reply:
    found = answer.telemetry
    return Reply(
        answer.text,
        found.prompt_tokens,
        found.completion_tokens,
        found.kept_bytes,
        found.full_bytes,
        answer.finish_reason,
    )
