"""One parameter of a policy: what it may be, and what it is where nobody sets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["flag", "integer", "number", "text", "choice", "numbers", "policy", "policies", ""]

_OF_DEFAULT: Mapping[type, Kind] = MappingProxyType(
    {bool: "flag", int: "integer", float: "number", str: "text"}
)
_LONGEST, _MOST = 4096, 4096
"""Characters of a text, and numbers of a list."""


@dataclass(frozen=True)
class Param:
    """One parameter of a policy.

    Attributes:
        default: its value where none is given; None: what the class makes of it.
        low: its least value.
        high: its greatest one.
        odd: whether it must be odd.
        kind: what it is; "" where the default's type says it.
        choices: the valid texts of a choice.
        optional: whether null is valid.
        required: whether it must be given.
    """

    default: int | float | bool | str | None
    low: float = 0
    high: float = 1_000_000
    odd: bool = False
    kind: Kind = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    required: bool = False

    @property
    def is_of(self) -> Kind:
        """What it is."""
        return self.kind or _OF_DEFAULT.get(type(self.default), "")

    @property
    def holds_policies(self) -> bool:
        """Whether it is a policy, or a list of some."""
        return self.is_of in ("policy", "policies")

    @property
    def valid(self) -> str:
        """The valid values in words."""
        words = self._words()
        return f"{words}, or null" if self.optional else words

    def _words(self) -> str:
        if self.is_of in ("integer", "number"):
            # The bounds of a field that says none are ours, against what cannot be meant.
            return f"{'odd ' if self.odd else ''}{self.is_of} from {self.low:g} to {self.high}"
        if self.is_of == "choice":
            return ", ".join(self.choices)
        return _WORDS.get(self.is_of, "any value")

    def accepts(self, value: object) -> bool:
        """Whether `value` has the right type and size; of a policy its shape alone."""
        if value is None:
            return self.optional
        check = _CHECKS.get(self.is_of)
        return check(self, value) if check else True

    def _accepts_number(self, value: object) -> bool:
        kinds = int if self.is_of == "integer" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        return self.low <= value <= self.high and (not self.odd or value % 2 == 1)  # NaN: nowhere


_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "flag": "true or false",
        "text": "a text",
        "numbers": "a list of numbers",
        "policy": "a policy's name, or {policy: NAME, ...} with its parameters",
        "policies": "a list of policies",
    }
)


def number_of(value: object) -> float:
    """A value that is accepted as a number.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def is_policy(value: object) -> bool:
    """Whether a value has the shape of a policy: a name, or a mapping that has one."""
    named = value.get("policy") if isinstance(value, Mapping) else value
    return isinstance(named, str) and bool(named)


def _are_numbers(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= _MOST
        and all(type(one) in (int, float) and math.isfinite(one) for one in value)
    )


_CHECKS: Mapping[str, Callable[[Param, object], bool]] = MappingProxyType(
    {
        "flag": lambda _, value: isinstance(value, bool),
        "integer": Param._accepts_number,
        "number": Param._accepts_number,
        "text": lambda _, value: isinstance(value, str) and len(value) <= _LONGEST,
        "choice": lambda param, value: isinstance(value, str) and value in param.choices,
        "numbers": lambda _, value: _are_numbers(value),
        "policy": lambda _, value: is_policy(value),
        "policies": lambda _, value: (
            isinstance(value, list | tuple) and 0 < len(value) <= 8 and all(map(is_policy, value))
        ),
    }
)
