"""What came of one request: the record that everything after the store takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, NamedTuple

from pytest_kvbench.records import Cell, Failure, FailureKind, Label, Proof

_PROOFS: tuple[Proof, ...] = ("not-applied", "unverified", "proven")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the store holds of a request: a reply with its score, or a failure.

    Of a failure `text`, `score` and `em` are None, of a reply `failure` is "". Of a reply that was
    not scored yet `score` is None. Times are in seconds; telemetry as in `records.Telemetry`.
    """

    key: str
    score: float | None = None
    em: float | None = None
    label: Label = ""
    parts: Mapping[str, float] | None = None
    failure: FailureKind | Literal[""] = ""
    message: str = ""
    text: str | None = None
    finish_reason: str | None = None
    origin: str | None = None
    latency_s: float | None = None
    ttft_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    achieved: float | None = None
    kept_bytes: int | None = None
    full_bytes: int | None = None
    note: str | None = None

    @property
    def is_unscored(self) -> bool:
        """A reply that no metric has looked at."""
        return self.text is not None and self.score is None

    @property
    def is_settled(self) -> bool:
        """A score, or a failure that will bring none."""
        return self.score is not None or self.failure != ""


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt that did not arrive whole: the tokens that did, and how many there are.

    `flat`: shown by a count that no longer grows with the prompts; `whole` is that of the longest.
    """

    arrived: int
    whole: int
    flat: bool = False


class Shared(NamedTuple):
    """What a treatment and the control it is compared with have in common."""

    control: Cell
    example_id: str
    replicate: int


@dataclass(frozen=True, slots=True)
class Observation:
    """One request, or one vote of several, and what came of it.

    `cluster` is that of the example's context, `chance` the score of guessing, in [0, 1]. `keys`
    are the requests it was made of; `outcome.key` is that of the one whose reply it is. Of a
    vote `replicate` is the trial. `cut` says how the prompt was cut, None that nothing shows it.
    `largest` counts the examples of the largest context of its bin, whether asked or not.
    """

    cell: Cell
    replicate: int
    aa: bool
    example_id: str
    cluster: str
    chance: float
    proof: Proof
    outcome: Outcome
    keys: tuple[str, ...]
    cut: Cut | None = None
    largest: int = 1

    @property
    def shared(self) -> Shared:
        """By which its control is found, or a control's treatments."""
        return Shared(self.cell.control, self.example_id, self.replicate)

    def to_json(self) -> dict[str, object]:
        """Plain flat data, as exports have it."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NESTED}
        return {**asdict(self.cell), **plain, **asdict(self.outcome)}


def failures_of(observed: Iterable[Observation]) -> Iterator[Failure]:
    """Those that failed, as the store took them; how often each was tried is not told."""
    for outcome in (one.outcome for one in observed):
        if outcome.failure:
            yield Failure(outcome.key, outcome.failure, outcome.message)


_NESTED = ("cell", "outcome", "keys", "cut", "largest")


def weakest(proofs: Sequence[Proof]) -> Proof:
    """Many are proven only if each is; of none, nothing is known."""
    return next((proof for proof in _PROOFS if proof in proofs), "unverified")
