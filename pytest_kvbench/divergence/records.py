"""What was found at every position of one example: plain data both ways, nothing unsound in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean
from typing import Any, Literal, get_args

from pytest_kvbench.divergence import measures
from pytest_kvbench.wire import sound

Method = Literal["forced", "free"]
Measure = Literal["overlap", "same_top", "kld", "nll", "prefix"]
Token = int | str
"""A token's id; its text where a server says no id."""

Named = tuple[tuple[Token, float], ...]
"""The likeliest tokens of one position, with their log-probabilities."""

MEASURES: tuple[Measure, ...] = get_args(Measure)
JUDGED: tuple[Measure, ...] = ("overlap", "same_top", "prefix")
"""In [0, 1], and 1 where nothing moved."""
HIGH = "_high"
"""What the name of a value ends with that is the most a measure can be."""
KLD_SHARES: Mapping[str, float] = {"median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


class UnsoundError(ValueError):
    """What a record of divergence cannot hold; the message names the field and what is valid."""


@dataclass(frozen=True)
class Bounds:
    """Between which the exact value of a measure lies; equal where it is known."""

    low: float
    high: float


@dataclass(frozen=True)
class Positions:
    """One value a position in each tuple that is not empty; empty: the engine cannot say.

    Attributes:
        reference: the tokens that both were asked about: forced, or in common.
        nll: -log q of the reference token, in nats; `control_nll` -log p of it.
        top: the arm's own likeliest token; `top_nll` its -log q, `top_control_nll` its -log p.
        control_top: the control's likeliest token; `control_top_nll` its -log p.
        same_top: whether both are the same token.
        overlap_low, overlap_high, kld_low, kld_high: bounds, equal where the distance is exact.
        named: in the full cache's own record, what a server named at each position, the likeliest
            first: pairs of a token and its log-probability. Arms are compared with it.
    """

    reference: tuple[Token, ...] = ()
    nll: tuple[float, ...] = ()
    control_nll: tuple[float, ...] = ()
    top: tuple[Token, ...] = ()
    top_nll: tuple[float, ...] = ()
    top_control_nll: tuple[float, ...] = ()
    control_top: tuple[Token, ...] = ()
    control_top_nll: tuple[float, ...] = ()
    same_top: tuple[bool, ...] = ()
    overlap_low: tuple[float, ...] = ()
    overlap_high: tuple[float, ...] = ()
    kld_low: tuple[float, ...] = ()
    kld_high: tuple[float, ...] = ()
    named: tuple[Named, ...] = ()

    def __post_init__(self) -> None:
        for name, values in self._columns():
            _check(isinstance(values, tuple), name, "a list")
            for at, value in enumerate(values):
                _check(_VALID[name](value), f"{name}[{at}]", _WORDS[_VALID[name]], value)
        lengths = {len(values) for _, values in self._columns() if values}
        _check(len(lengths) <= 1, "positions", "as many values of every measure")
        for name in ("overlap", "kld"):
            pairs = zip(getattr(self, f"{name}_low"), getattr(self, f"{name}_high"), strict=False)
            _check(all(low <= high for low, high in pairs), f"{name}_low", "at most the high one")

    def __len__(self) -> int:
        return max(len(values) for _, values in self._columns())

    def _columns(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    @classmethod
    def from_json(cls, data: object) -> Positions:
        """Read back what `to_json` wrote.

        Raises:
            UnsoundError: it holds what no record does.
        """
        given = _fields(data, "positions", {field.name for field in fields(cls)})
        return cls(**{name: _tuples(values) for name, values in given.items()})


@dataclass(frozen=True)
class Divergence:
    """How far one arm is from the full cache on one example.

    Attributes:
        method: `forced`: both on the same tokens; `free`: each its own reply, compared up to and
            with the first position at which they differ.
        n: the length of the control's reply in tokens: what there is to compare.
        prefix: tokens until the arm would have gone another way; n if it never does.
        k: how many tokens the server names at each position; None: the whole vocabulary.
        positions: what was found at each of them.
    """

    method: Method
    n: int
    prefix: int
    k: int | None
    positions: Positions

    def __post_init__(self) -> None:
        _check(self.method in get_args(Method), "method", " or ".join(get_args(Method)))
        for name, least in (("n", 0), ("prefix", 0), ("k", 1)):
            value = getattr(self, name)
            fine = (name == "k" and value is None) or (_is_count(value) and value >= least)
            _check(fine, name, f"a whole number of at least {least}", value)
        _check(self.prefix <= self.n, "prefix", f"at most n, {self.n}", self.prefix)
        most = self.n if self.method == "forced" else self.prefix + 1
        _check(len(self.positions) <= most, "positions", f"at most {most}", len(self.positions))

    def bounds(self, measure: Measure) -> Bounds | None:
        """The example's value of a measure; None where the engine cannot say it.

        `overlap`, `same_top` and `prefix` (as a share of n) are 1 where nothing moved; `kld` and
        `nll` are means in nats a token. Without an upper bound of `kld`, high is infinite.
        """
        if measure == "prefix":
            share = self.prefix / self.n if self.n else 1.0
            return Bounds(share, share)
        names = (measure, measure) if measure in _EXACT else (f"{measure}_low", f"{measure}_high")
        low, high = (getattr(self.positions, name) for name in names)
        if not low:
            return None
        return Bounds(fmean(low), fmean(high) if high else math.inf)

    @property
    def kld_quantiles(self) -> Mapping[str, float]:
        """Of the positions' least KLD, in nats: median, 90%, 99% and the greatest; may be none."""
        values = sorted(self.positions.kld_low)
        return {name: _quantile(values, share) for name, share in KLD_SHARES.items() if values}

    @property
    def perplexity_ratio(self) -> float | None:
        """The arm's perplexity of the reference over the control's."""
        if not self.positions.nll or not self.positions.control_nll:
            return None
        own, control = fmean(self.positions.nll), fmean(self.positions.control_nll)
        return measures.perplexity_ratio(own, control)

    def without_tokens(self) -> Divergence:
        """The same without the tokens, for texts that must not be kept: an id is a text, too."""
        wordless = replace(self.positions, reference=(), top=(), control_top=(), named=())
        return replace(self, positions=wordless)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; what is not known takes no place."""
        known = {name: list(some) for name, some in asdict(self.positions).items() if some}
        return {**asdict(self), "positions": known}

    @classmethod
    def from_json(cls, data: object) -> Divergence:
        """Read back what `to_json` wrote.

        Raises:
            UnsoundError: it holds what no record does.
        """
        given = _fields(data, "divergence", names := {field.name for field in fields(cls)})
        _check(set(given) == names, "divergence", f"all of {', '.join(sorted(names))}")
        return cls(**{**given, "positions": Positions.from_json(given["positions"])})


def _tuples(values: object) -> Any:
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


_EXACT = frozenset({"same_top", "nll"})


def _quantile(values: Sequence[float], share: float) -> float:
    """Between two neighbours in proportion, as numpy has it by default."""
    at = share * (len(values) - 1)
    low, high = values[math.floor(at)], values[math.ceil(at)]
    return low + (high - low) * (at - math.floor(at))


def _fields(data: object, name: str, valid: set[str]) -> Mapping[str, Any]:
    _check(isinstance(data, Mapping), name, "a JSON object")
    given = sound.fields(data)
    _check(set(given) <= valid, name, f"of {', '.join(sorted(valid))}", *set(given) - valid)
    return given


def _check(fine: bool, name: str, valid: str, *values: object) -> None:
    if not fine:
        shown = f" is {', '.join(map(sound.message, values))}" if values else ""
        raise UnsoundError(f"{name}{shown}; valid: {valid}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and sound.count(value) is not None


def _is_token(value: object) -> bool:
    return _is_count(value) or (isinstance(value, str) and sound.text(value) == value)


def _is_distance(value: object) -> bool:
    return isinstance(value, float | int) and sound.number(value) is not None


def _is_named(value: object) -> bool:
    pairs = value if isinstance(value, tuple) else ()
    named = [pair for pair in pairs if isinstance(pair, tuple) and len(pair) == 2]
    sound_pairs = all(_is_token(token) and _is_log(log) for token, log in named)
    return bool(pairs) and len(named) == len(pairs) and sound_pairs


def _is_log(value: object) -> bool:
    """A log-probability; what a server rounds may be above 0."""
    if not isinstance(value, float | int) or isinstance(value, bool):
        return False
    return sound.number(1 - value) is not None


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


_WORDS: Mapping[Callable[[object], bool], str] = {
    _is_token: "a token's id or text",
    _is_distance: "a number, not negative",
    _is_share: "a number from 0 to 1",
    _is_bool: "true or false",
    _is_named: "tokens with log-probabilities",
}
_VALID: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("reference", "top", "control_top"), _is_token),
    **dict.fromkeys(("nll", "control_nll", "top_nll", "top_control_nll"), _is_distance),
    **dict.fromkeys(("control_top_nll", "kld_low", "kld_high"), _is_distance),
    **dict.fromkeys(("overlap_low", "overlap_high"), _is_share),
    "same_top": _is_bool,
    "named": _is_named,
}
