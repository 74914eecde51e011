"""What came of one request: the record that everything after the store takes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TypeVar

from pytest_kvbench.alike import Column, Filling
from pytest_kvbench.divergence.records import HIGH
from pytest_kvbench.records import SCORE, Cell, Failure, FailureKind, Label, Proof

Name = TypeVar("Name")

_PROOFS: tuple[Proof, ...] = ("not-applied", "unverified", "simulated", "proven")


class Outcome(NamedTuple):
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

    def high(self, measure: str) -> float | None:
        """The most that the score can be: itself, but where a measure lies between two bounds."""
        if measure == SCORE:
            return self.score
        return (self.parts or {}).get(f"{measure}{HIGH}", self.score)

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


class Observation(NamedTuple):
    """One request, or one vote of several, and what came of it.

    `cluster` is that of the example's context, `chance` the score of guessing, in [0, 1]. Of a vote
    `replicate` is the trial, `samples` are the keys of its requests, and `outcome.key` is that of
    the one whose reply it is. `cut` says how the prompt was cut, None that nothing shows it.
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
    cut: Cut | None = None
    largest: int = 1
    samples: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the requests that it was made of."""
        return self.samples or (self.outcome.key,)

    @property
    def shared(self) -> Shared:
        """By which its control is found, or a control's treatments."""
        return Shared(_control_of(self.cell), self.example_id, self.replicate)

    def to_json(self) -> dict[str, object]:
        """Plain flat data, as exports have it."""
        plain = {name: value for name, value in self._asdict().items() if name not in _NESTED}
        cell = {name: of for name, of in vars(self.cell).items() if (name, of) != _SCORED}
        return {**cell, **plain, **self.outcome._asdict()}


@lru_cache(4_096)
def _control_of(cell: Cell) -> Cell:
    """One record for all requests of a cell: they may be hundreds of thousands."""
    return cell.control


def highs_of(outcomes: Mapping[Name, Outcome], measure: str) -> dict[Name, float]:
    """The most that scores can be, of those that are not exact."""
    found = ((name, one.score, one.high(measure)) for name, one in outcomes.items())
    return {name: high for name, score, high in found if high is not None and high != score}


def _names(values: Iterable[Any]) -> Iterator[Hashable]:
    """What each value is alike by: itself, but -0.0 is not 0.0, and a mapping has no hash."""
    for value in values:
        is_whole = bool(value) and not isinstance(value, Mapping)
        yield value if is_whole else (type(value), repr(value))


def _column_of(values: Sequence[Any]) -> Column[Any]:
    filling = Filling[Any]()
    filling.add(values, _names(values))
    return filling.column


class Observations(Collection[Observation]):
    """Observations in the order they came, held as columns: a record is made when it is read.

    What repeats within a column is held once.
    """

    def __init__(self, observed: Iterable[Observation] = ()) -> None:
        filling = {name: Filling[Any]() for name in _READ}
        rows = iter(observed)
        while some := list(islice(rows, _AT_ONCE)):
            for name, read in _READ.items():
                filling[name].add(values := [*map(read, some)], _names(values))
        self._columns = {name: one.column for name, one in filling.items()}

    @classmethod
    def of(cls, observed: Iterable[Observation]) -> Observations:
        """The same as columns; itself where it is."""
        return observed if isinstance(observed, Observations) else cls(observed)

    def __len__(self) -> int:
        return len(self._columns["cell"])

    def __iter__(self) -> Iterator[Observation]:
        outcomes = map(Outcome._make, zip(*map(self.column, Outcome._fields), strict=True))
        parts = (outcomes if n == "outcome" else self.column(n) for n in Observation._fields)
        return map(Observation._make, zip(*parts, strict=True))

    def __getitem__(self, place: int) -> Observation:
        return next(iter(self.at([place])))

    def __contains__(self, one: object) -> bool:
        return any(one == other for other in self)

    def column(self, name: str) -> Column[Any]:
        """One field of all of them, of the observation itself or of its outcome."""
        return self._columns[name]

    def at(self, places: Iterable[int]) -> Observations:
        """Those at some places, in that order."""
        places = array("I", places)
        return self._with({name: of.taken(places) for name, of in self._columns.items()})

    def where(self, wanted: Callable[[Observation], bool]) -> Observations:
        """Those of which something is true; itself where that is all."""
        places = array("I", (place for place, one in enumerate(self) if wanted(one)))
        return self if len(places) == len(self) else self.at(places)

    def with_columns(self, **columns: Iterable[Any]) -> Observations:
        """The same with other values in some columns, one for each observation."""
        filled = {name: _column_of([*values]) for name, values in columns.items()}
        return self._with({**self._columns, **filled})

    @staticmethod
    def _with(columns: dict[str, Column[Any]]) -> Observations:
        some = Observations()
        some._columns = columns
        return some


def failures_of(observed: Iterable[Observation]) -> Iterator[Failure]:
    """Those that failed, as the store took them; how often each was tried is not told."""
    for outcome in (one.outcome for one in observed):
        if outcome.failure:
            yield Failure(outcome.key, outcome.failure, outcome.message)


_SCORED = ("measure", SCORE)  # as before there were others
_NESTED = ("cell", "outcome", "samples", "cut", "largest")
_AT_ONCE = 5_000
_READ = {
    **{name: attrgetter(name) for name in Observation._fields if name != "outcome"},
    **{name: attrgetter(f"outcome.{name}") for name in Outcome._fields},
}


def weakest(proofs: Sequence[Proof]) -> Proof:
    """Many are proven only if each is; of none, nothing is known."""
    return next((proof for proof in _PROOFS if proof in proofs), "unverified")
