"""Engines of users: an object that answers messages, for methods that are neither press nor server.

A class of the user's has one method, `generate(messages, arm) -> Reply`. A run starts one process
for it, which makes the object once and asks it one request after the other, in one thread; all
processes of the run share it, as they share any server that a run starts.

reading   what such a class is, read by a process that imports it
__main__  the process that serves it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from pydantic import ConfigDict, with_config

from pytest_kvbench.own.classes import Classes, Found
from pytest_kvbench.own.reader import read
from pytest_kvbench.records import Params


class Entry(TypedDict):
    """What is read of a class: see `reading`."""

    policies: Mapping[str, float | None] | None


def _read(spec: str) -> Found[Entry]:
    found: Found[Entry] = read("engines.own.reading", spec, what="engines")
    return found


CLASSES = Classes("engine", _read, ("torch", "transformers"))


@dataclass(frozen=True)
class AskedArm:
    """What `generate` is asked for beside the messages.

    Attributes:
        policy: as in `kv.policies`; `none` is the full cache.
        budget: the fraction of the full cache's bytes to keep.
        params: the policy's, of `kv.params`.
        max_tokens: new tokens at most.
        temperature: 0 is greedy.
        top_p: of sampling.
        seed: of sampling; each trial has its own.
        stop: texts that end the reply, and are no part of it.
        chat: whether the model's chat template is to be used; else the one message is the prompt.
    """

    policy: str = "none"
    budget: float = 1.0
    params: Params = field(default_factory=dict)
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = ()
    chat: bool = True


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Reply:
    """What `generate` gives.

    Attributes:
        text: the reply's.
        prompt_tokens: tokens of the prompt.
        new_tokens: tokens of the reply.
        kept_bytes: of the prompt's cache right after compression. With `full_bytes` they are the
            proof that the budget was applied; without, an arm is `unverified`.
        full_bytes: of the full cache of the same prompt.
        finish_reason: `stop`, or `length` where `max_tokens` ended it.
        logprobs: for each new token the log-probabilities of tokens by their text, its own first.
    """

    text: str
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    kept_bytes: int | None = None
    full_bytes: int | None = None
    finish_reason: str = "stop"
    logprobs: Sequence[Mapping[str, float]] = ()
