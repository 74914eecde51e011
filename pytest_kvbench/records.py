"""The frozen records that cross every boundary: processes, files, the database.

Plain data both ways: `to_json` gives what `json` can write, `from_json` reads it back. Identity is
always `digest` (sha256 of canonical JSON) of content, never a path or a node id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from pytest_kvbench.canonical import canonical as canonical
from pytest_kvbench.canonical import digest as digest
from pytest_kvbench.divergence.records import Divergence
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.conversation import NO_TURNS, Conversation

FailureKind = Literal["TIMEOUT", "ENGINE_ERROR"]
Label = Literal["", "EMPTY_OUTPUT", "TRUNCATED", "FORMAT_ERROR", "REFUSAL"]
ReasoningRule = Literal["strip", "keep", "fail"]
Proof = Literal["proven", "simulated", "unverified", "not-applied"]
Method = Literal["", "forced", "free"]
VerdictWord = Literal["holds", "breaks", "undetermined", "not-measured"]

FULL_CACHE = "none"  # the policy of a control: nothing is removed
SCORE = "score"  # the measure of an experiment that declares none: what a task's metric says
WITHHELD = "withheld"  # the full cache, asked without the context: an arm that must break

NOT_APPLIED: Final = "not-applied"
PROVEN: Final = "proven"
SIMULATED: Final = "simulated"
UNVERIFIED: Final = "unverified"
SHOWN: Final = (PROVEN, SIMULATED)
"""Of what is kept: measured, whether or not bytes were freed."""

_REASON = 100  # characters of a finish reason


def to_json(record: Any) -> dict[str, object]:
    """A record as plain JSON data (tuples become lists, nested records become dicts)."""
    return dict(json.loads(canonical(dataclasses.asdict(record))))


Meta = Mapping[str, object]
"""What a task notes on an example besides question and answers: JSON, by keys of the task's own."""


Params = Mapping[str, object]
"""Parameters of a policy, by the names that its class has for them: its `Param`s check them."""


@dataclass(frozen=True)
class Example:
    """One question.

    `example_id` is a hash of content (with the source's own id where it has one); `answers` are
    the accepted references; `meta` is what a metric or a report may need beside (`cluster`, ...).
    """

    example_id: str
    question: str
    context: str
    answers: tuple[str, ...]
    meta: Meta = field(default_factory=dict)

    @cached_property
    def cluster(self) -> str:
        """Hash of what makes examples dependent: the name that a row gave, else the context.

        Examples without a context share nothing: each is a cluster of its own.
        """
        if (name := self.meta.get("cluster")) is not None:
            return digest(["cluster", str(name)])[:16]
        shared = self.context if self.context.strip() else f"example {self.example_id}"
        return hashlib.sha256(shared.encode()).hexdigest()[:16]

    def noting(self, meta: Meta) -> Example:
        """The same with other notes."""
        return dataclasses.replace(self, meta=meta)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Example:
        """Read back what `to_json` wrote."""
        return cls(**{**data, "answers": tuple(data["answers"])})


@dataclass(frozen=True)
class Prompt:
    """What is sent for one example: `head` ends with the context, `tail` begins with the question.

    A policy that is not question-aware compresses `head`, and what the `conversation` has before
    its last message, alone. `chat`: by the chat template.
    """

    head: str
    tail: str
    max_tokens: int
    chat: bool = True
    stop: tuple[str, ...] = ()
    conversation: Conversation = NO_TURNS

    @property
    def text(self) -> str:
        """The whole prompt, before any chat template."""
        return self.conversation.transcript + self.head + self.tail

    @cached_property
    def content_id(self) -> str:
        """Hash of everything above."""
        sent = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        sent |= sent.pop("conversation").identity
        return digest(sent)  # without `to_json`, whose copies of long texts took most of a prepare


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: replicate r with `seed + r`, and a task's own length where None."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True)
class Arm:
    """All that may change an answer, apart from the example.

    `method`: how its distributions are compared with the full cache's; "" where its replies are.
    `params` are the policy's own parameters; `fingerprint` is the engine's, server's KV settings
    and version included, so that a restarted server with another KV type never meets stale answers.
    """

    engine: str
    model: str
    fingerprint: str
    policy: str
    budget: float
    sampling: Sampling
    template_version: str
    variant: str = ""
    question_aware: bool = True
    params: Params = field(default_factory=dict)
    method: Method = ""

    @property
    def is_control(self) -> bool:
        """Whether this is the full-cache arm."""
        return self.policy == FULL_CACHE

    def to_json(self) -> dict[str, object]:
        """Plain data, without a method where there is none."""
        return {name: of for name, of in to_json(self).items() if (name, of) != ("method", "")}

    @cached_property
    def arm_id(self) -> str:
        """Hash of everything above."""
        return digest(self.to_json())

    @cached_property
    def content_id(self) -> str:
        """Hash of what can change an answer: the variant's name alone cannot."""
        return digest({**self.to_json(), "variant": ""})


@dataclass(frozen=True)
class Cell:
    """Task x bin x budget (x policy, x variant, x measure): one pytest item."""

    task: str
    bin: int
    policy: str
    budget: float
    variant: str = ""
    measure: str = SCORE

    @property
    def is_control(self) -> bool:
        """Whether this is the control item of its task and bin."""
        return self.policy == FULL_CACHE

    @property
    def control(self) -> Cell:
        """The control cell this one is judged against."""
        return Cell(self.task, self.bin, FULL_CACHE, 1.0, self.variant, self.measure)

    @property
    def item_id(self) -> str:
        """Readable and unique: `niah-single-bin2-snapkv-0.20`. Never parsed back."""
        parts = [self.task.replace("/", "-"), f"bin{self.bin}"]
        parts += ["control"] if self.is_control else [self.policy, format_budget(self.budget)]
        return "-".join([*parts, *named_only(self.variant, self.measure)])


def named_only(variant: str, measure: str) -> list[str]:
    """What a name says of both: nothing of a variant without a name, nor of scores."""
    return [name for name in (variant, measure) if name not in ("", SCORE)]


def format_budget(budget: float) -> str:
    """At least two decimals, and as many as the value has: 0.2 -> `0.20`, 0.125 -> `0.125`."""
    return max(f"{budget:.2f}", f"{budget:.10g}", key=len)


@dataclass(frozen=True)
class Request:
    """One arm asked one example once.

    `prompt_id` is that of the example's manifest: what the task alone would send, which the arm's
    template and `prompt.max_tokens` make what is sent. Where it is "" the prompt names itself.
    A request of a plan has no text before it is `sent`.
    `reference`: the key of the full cache's request whose reply distributions are compared on,
    `against` that reply, where it is here.
    """

    arm: Arm
    task: str
    bin: int
    example_id: str
    replicate: int
    prompt: Prompt
    aa: bool = False
    prompt_id: str = ""
    reference: str = ""
    against: Answer | None = field(default=None, compare=False)

    @property
    def is_repeat(self) -> bool:
        """A control that none is compared with: of scores A/A, of distributions the first."""
        return self.arm.is_control and self.aa == (self.arm.method == "")

    @property
    def asks(self) -> tuple[str, int, str]:
        """What is sent, apart from sampling: equal for requests that can share a prefill."""
        named = self.prompt_id or self.prompt.content_id
        return named, self.prompt.max_tokens, self.arm.template_version

    def sent(self, prompt: Prompt) -> Request:
        """The same with its prompt. The key, which names it already, is not hashed again."""
        asked = dataclasses.replace(self, prompt=prompt)
        asked.__dict__["key"] = self.key
        return asked

    @cached_property
    def key(self) -> str:
        """Same key, same answer: hash of what is sent, to whom, and which repetition it is."""
        asked = {"example_id": self.example_id, "asks": self.asks, "replicate": self.replicate}
        return digest({**asked, "arm": self.arm.content_id, "aa": self.aa})


@dataclass(frozen=True)
class Telemetry:
    """What an answer cost, and the proof that its budget was applied.

    Times in seconds; `latency_s` is the wall time of the HTTP request that brought the answer, less
    the time the server says it queued, shared by `arms_in_request` arms; None where nobody waited
    for it, as in a batch. Bytes are of the prompt's KV tensors right after compression. A server
    may say anything: what is no sound number is None. `waited_s`: its share of the wait for limits.
    """

    latency_s: float | None
    ttft_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    achieved: float | None = None
    kept_bytes: int | None = None
    full_bytes: int | None = None
    kept_tokens: float | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    arms_in_request: int = 1
    waited_s: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        values = self.__dict__  # of a frozen record, while it is made
        for name in _COUNTS:
            values[name] = sound.count(values[name])
        for name in _NUMBERS:
            values[name] = sound.number(values[name])
        values["note"] = self.note and sound.message(self.note)


_COUNTS = tuple(f"{kind}_tokens" for kind in ("prompt", "completion", "cached", "reasoning"))
_COUNTS += ("kept_bytes", "full_bytes")
_NUMBERS = ("latency_s", "ttft_s", "achieved", "kept_tokens")


@dataclass(frozen=True)
class Answer:
    """One arm's reply to one example. `reasoning`: thoughts that its server kept apart.

    `divergence`: how far its distributions are from the full cache's, where these were compared;
    `text` is then the reply that both were asked about.
    """

    key: str
    text: str
    finish_reason: str
    telemetry: Telemetry
    reasoning: str = ""
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", sound.text(self.text))
        object.__setattr__(self, "reasoning", sound.text(self.reasoning))
        object.__setattr__(self, "finish_reason", sound.message(self.finish_reason, _REASON))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Answer:
        """Read back what `to_json` wrote."""
        found = data.get("divergence")
        divergence = None if found is None else Divergence.from_json(found)
        telemetry = Telemetry(**data["telemetry"])
        return cls(**{**data, "telemetry": telemetry, "divergence": divergence})


@dataclass(frozen=True)
class Failure:
    """A request without a reply. It has no score; its pair is dropped and counted.

    `message` is one line, cut in length: a server's own words may be anything.
    """

    key: str
    kind: FailureKind
    message: str
    attempts: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", sound.message(self.message))


@dataclass(frozen=True)
class Score:
    """What a metric makes of an answer: `value`, `em` and every part in [0, 1].

    `parts` are what a metric of several conditions is made of, by name: `credited` is a right
    choice, a found quote, enough coverage and a witness.
    """

    value: float
    em: float
    label: Label = ""
    parts: Mapping[str, float] = field(default_factory=dict)
