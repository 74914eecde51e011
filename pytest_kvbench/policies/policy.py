"""What a policy is: which class shrinks the cache, what may be set, how it must be served."""

from __future__ import annotations

import reprlib
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from pytest_kvbench.errors import UsageError
from pytest_kvbench.policies.params import Param, number_of
from pytest_kvbench.records import Params

Serving = Literal["shared", "own", "decoding", "quantised"]
"""How a policy is served: from one pass that all share, by a pass of its own, while decoding, or
by a cache of fewer bits."""

EXPECTED = "budget"
"""The parameter that names the budget of a policy which has none of its own."""


RATIOS = "compression_ratios"
"""The parameter with a ratio for each layer: what is kept is one less their mean."""


class ListedParam(TypedDict):
    """What lists say of a parameter."""

    default: int | float | bool | str | None
    valid: str


class Listed(TypedDict):
    """What lists say of a policy, as JSON."""

    name: str
    press: str
    paper: str
    note: str
    served: str
    proof: str
    needs: str
    refused: str
    min_tokens: int
    params: dict[str, ListedParam]


@dataclass(frozen=True)
class Policy:
    """What shrinks the cache.

    A prompt must have more tokens than `floor`, or than the parameter that `needs` names;
    `score_uses_budget` says that scores of one budget are not those of another.

    Attributes:
        name: as in an experiment.
        press: the class that does it.
        paper: of arXiv.
        note: what it keeps.
        params: what may be set.
        floor: see above.
        needs: see above.
        score_uses_budget: see above.
        serving: how it is served.
        eager: whether it reads attention weights.
        dial: the parameter, property or inner policies that the budget sets; "" where it has none.
        whole: the parameter in whose steps it removes.
        trained: what must be fetched before it works.
        refused: why it cannot be served; "" where it can.
        masks: whether it is known to mask in place of evicting.
        fixed: the fraction that it always keeps, by the bytes of the model's own type.
    """

    name: str
    press: str
    paper: str
    note: str
    params: Mapping[str, Param] = field(default_factory=dict)
    floor: int = 0
    needs: str = ""
    score_uses_budget: bool = False
    serving: Serving = "shared"
    eager: bool = False
    dial: str = "compression_ratio"
    whole: str = ""
    trained: str = ""
    refused: str = ""
    masks: bool = False
    fixed: Mapping[int, float] = field(default_factory=dict)

    @property
    def served(self) -> str:
        """How it is served, in words."""
        if not (self.press or self.fixed):
            return "the full cache"
        return "a pass of its own, eager attention" if self.eager else _SERVED[self.serving]

    @property
    def proof(self) -> str:
        """What proves an answer's budget, in words."""
        if not (self.press or self.fixed):
            return "nothing is asked for"
        measured = "measured bytes" if not self.masks else "simulated: the measured share in use"
        return f"{measured}, from its first act on" if self.serving == "decoding" else measured

    def with_defaults(self, params: Params) -> Params:
        """All parameters: `params` where given, else the defaults; None where the class has one.

        A policy among them stands as its name.

        Raises:
            UsageError: a parameter is unknown or missing, or its value is not valid.
        """
        for name, value in params.items():
            self._check(name, value)
        for name, param in self.params.items():
            if param.required and name not in params:
                raise UsageError(
                    f"policy {self.name}: it needs the parameter {name}.",
                    f"Valid: kv.params: {{{self.name}: {{{name}: ...}}}}, {param.valid}.",
                )
        return {name: params.get(name, param.default) for name, param in self.params.items()}

    def inner(self, params: Params) -> Iterator[tuple[str, Params]]:
        """The policies among all its parameters: each one's name and own parameters."""
        for name, param in self.params.items():
            value = params.get(name)
            if param.holds_policies and value is not None:
                yield from map(recipe_of, value if isinstance(value, list | tuple) else [value])

    def fixed_budget(self, params: Params, bits: int = 32) -> float | None:
        """The fraction that it keeps whatever is asked for; None: it takes the ladder.

        Args:
            params: those that were given.
            bits: of a value in the model's own type.
        """
        if self.fixed:
            return self.fixed[bits]
        if self.dial or not self.press:
            return None
        if RATIOS in self.params:
            ratios = self.with_defaults(params)[RATIOS]
            listed = ratios if isinstance(ratios, list | tuple) else [ratios]
            return 1 - statistics.fmean(map(number_of, listed))
        return float(number_of(self.with_defaults(params)[EXPECTED]))

    def slack(self, params: Params, tokens: int) -> float:
        """How far it may be off its budget by its own nature, on a prompt of so many tokens.

        What removes every so many steps is off by one of them at most; what keeps whole chunks
        by one, and by what a shorter last one lacks, where that is kept. A threshold has no budget,
        and what it keeps is what it keeps.
        """
        if self.whole:
            most = 1 if self.serving == "decoding" else 2
            return most * number_of(self.with_defaults(params)[self.whole]) / max(tokens, 1)
        return 1.0 if not self.dial and EXPECTED in self.params else 0.0

    def min_tokens(self, params: Params) -> int:
        """The fewest prompt tokens this policy can work on, whatever it wraps."""
        return 1 + (int(number_of(params[self.needs])) if self.needs else self.floor)

    def listed(self) -> Listed:
        """What lists say of it, as JSON."""
        return {
            "name": self.name,
            "press": self.press,
            "paper": self.paper and f"arXiv:{self.paper}",
            "note": self.note,
            "served": self.served,
            "proof": self.proof,
            "needs": self.trained,
            "refused": self.refused,
            "min_tokens": self.min_tokens({n: p.default for n, p in self.params.items()}),
            "params": {
                name: {"default": param.default, "valid": param.valid}
                for name, param in self.params.items()
            },
        }

    def _check(self, name: str, value: object) -> None:
        if name not in self.params:
            raise UsageError(
                f"policy {self.name}: unknown parameter {name!r}.",
                f"Valid: {', '.join(self.params) or 'none, it has no parameters'}.",
            )
        if not self.params[name].accepts(value):
            raise UsageError(
                f"policy {self.name}: {name} is {reprlib.repr(value)}.",
                f"Valid: {self.params[name].valid}.",
            )


_SERVED: Mapping[Serving, str] = {
    "shared": "one pass for all",
    "own": "a pass of its own",
    "decoding": "while decoding",
    "quantised": "a cache of its own",
}


def recipe_of(value: object) -> tuple[str, Params]:
    """The name and the parameters of a policy written as `NAME` or `{policy: NAME, ...}`."""
    if not isinstance(value, Mapping):
        return str(value), {}
    return str(value["policy"]), {name: one for name, one in value.items() if name != "policy"}
