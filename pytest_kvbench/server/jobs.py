"""What the engine is asked and what it emits: jobs, their arms, reports, pieces and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_kvbench.policies.table import Policy
from pytest_kvbench.records import Params
from pytest_kvbench.server.drawing import Sampling


@dataclass(frozen=True)
class ArmSpec:
    """One arm of a job, checked.

    `context` is the number of leading tokens the policy sees and compresses; None: all of them
    (the policy is question-aware).
    """

    policy: Policy
    params: Params
    budget: float
    context: int | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is removed: its cache is the control's."""
        return self.budget >= 1 or not (self.policy.press or self.policy.fixed)

    @property
    def goes_alone(self) -> bool:
        """Whether it needs a pass of its own."""
        return not self.keeps_all and (self.policy.serving != "shared" or self.policy.eager)


@dataclass(frozen=True)
class Moment:
    """The bytes of a cache at one moment, or their mean over many: those it has, and the full's."""

    kept_bytes: int
    full_bytes: int


@dataclass(frozen=True)
class ArmReport:
    """What one arm's cache really is, measured before the first new token.

    Attributes:
        policy: its name.
        budget: what was asked for.
        achieved: the share of the full cache's bytes that is in use: what is masked is not.
        kept_bytes: of the tensors as they are.
        full_bytes: of the full cache's.
        kept_tokens: tokens in use, a mean over layers.
        question_aware: whether the policy saw the question.
        note: what else must be known.
        simulated: whether bytes that are not in use are held all the same.
        while_decoding: of a policy that acts while decoding, at the reply's end: the bytes at the
            end of the prompt, the mean over the reply and the peak. `achieved` and the bytes above
            are then means from the policy's first act on.
        error: why the arm has no answer.
    """

    policy: str
    budget: float
    achieved: float
    kept_bytes: int
    full_bytes: int
    kept_tokens: float
    question_aware: bool
    note: str
    simulated: bool = False
    while_decoding: Mapping[str, Moment] | None = None
    error: str = ""


@dataclass(frozen=True)
class Forced:
    """What one arm says of a reply that all arms of its job are asked about, a value a token.

    Attributes:
        reference: the reply, token by token, its end token included.
        nll: -log q of the reply's token, in nats; q is the arm's distribution, p the full cache's.
        top: the arm's own likeliest token; `top_nll` its -log q, `reference_top_nll` its -log p.
        overlap, kld: of q from p over the whole vocabulary, see `divergence.measures`.
    """

    reference: Sequence[int]
    nll: Sequence[float]
    top: Sequence[int]
    top_nll: Sequence[float]
    reference_top_nll: Sequence[float]
    overlap: Sequence[float]
    kld: Sequence[float]


@dataclass(frozen=True)
class Piece:
    """Text of arm `index`; the last one has a finish reason and the number of new tokens.

    `report` is the final one of an arm whose cache changed while it was answered; `forced` is
    there where the text is one that it was asked about.
    """

    index: int
    text: str
    finish_reason: str | None = None
    completion_tokens: int = 0
    report: ArmReport | None = None
    forced: Forced | None = None


@dataclass
class Timings:
    """Where a job's time went, in seconds.

    `decode_s` counts steps this job took part in, alone or with others; `force_s` is that of asking
    its arms about a reply; `queue_s` is the rest of the wall time: waiting for other jobs, before
    this one began or between its steps.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    compress_s: float = 0.0
    decode_s: float = 0.0
    force_s: float = 0.0


@dataclass(frozen=True)
class Force:
    """A reply that all arms are asked about: these tokens, or what the first arm decodes."""

    reference: Sequence[int] | None = None


@dataclass(frozen=True)
class Done:
    """A job's end: where its time went, and how much of the prompt no pass had to compute."""

    timings: Timings
    cached_tokens: int


Event = list[ArmReport] | Piece | Done | Exception
"""What a job emits: reports once, pieces, then its end; or an exception at any point."""


@dataclass
class Job:
    """One request on its way through the engine. `cancelled` may be set from any thread.

    With `force` the first arm has the full cache: what the others are compared with.
    """

    ids: Sequence[int]
    arms: Sequence[ArmSpec]
    max_tokens: int
    sampling: Sampling
    stops: Sequence[str]
    emit: Callable[[Event], None]
    force: Force | None = None
    cancelled: bool = False
    created: float = 0.0
    timings: Timings = field(default_factory=Timings)
    cached_tokens: int = 0
    unfinished: int = 0


def removed(arm: ArmSpec, tokens: int) -> float:
    """The share of the compressed part to remove, so that the whole prompt keeps `arm.budget`.

    A policy that is not question-aware leaves the question whole, so the context gives more.
    """
    if arm.context is None:
        return 1 - arm.budget
    question = tokens - arm.context
    return 1 - (arm.budget * tokens - question) / arm.context
