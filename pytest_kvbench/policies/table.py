"""The table of policies: name, kvpress class, paper, parameters. No torch here.

A policy's score and its selection are kvpress's own; this table only says which class makes them
and what may be set.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import FULL_CACHE


@dataclass(frozen=True)
class Param:
    """One parameter of a policy: its default gives its type, `low` and `high` its range."""

    default: int | float | bool
    low: float = 0
    high: float = 1_000_000
    odd: bool = False

    @property
    def valid(self) -> str:
        """The valid values in words."""
        if isinstance(self.default, bool):
            return "true or false"
        kind = "integer" if isinstance(self.default, int) else "number"
        return f"{'odd ' if self.odd else ''}{kind} from {self.low:g} to {self.high}"

    def accepts(self, value: Any) -> bool:
        """Whether `value` has the right type and size."""
        if isinstance(self.default, bool) or isinstance(value, bool):
            return isinstance(value, bool) and isinstance(self.default, bool)
        kinds = int if isinstance(self.default, int) else (int, float)
        if not isinstance(value, kinds) or not self.low <= value <= self.high:  # NaN is nowhere
            return False
        return not self.odd or value % 2 == 1


@dataclass(frozen=True)
class Policy:
    """What shrinks the cache.

    A prompt must have more tokens than `floor`, or than the parameter that `needs` names;
    `score_uses_budget` says that scores of one budget are not those of another.
    """

    name: str
    press: str
    paper: str
    note: str
    params: Mapping[str, Param] = field(default_factory=dict)
    floor: int = 0
    needs: str = ""
    score_uses_budget: bool = False

    def with_defaults(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters: `params` where given, else the defaults.

        Raises:
            UsageError: a parameter is unknown, or its value is not valid.
        """
        for name, value in params.items():
            self._check(name, value)
        return {name: params.get(name, param.default) for name, param in self.params.items()}

    def min_tokens(self, params: Mapping[str, Any]) -> int:
        """The fewest prompt tokens this policy can work on."""
        return 1 + (int(params[self.needs]) if self.needs else self.floor)

    def _check(self, name: str, value: Any) -> None:
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


_WINDOW = {
    "window_size": Param(64, low=1),
    "kernel_size": Param(5, low=1, high=4095, odd=True),
}

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Policy(FULL_CACHE, "", "", "The full cache: nothing is removed."),
            Policy(
                "snapkv",
                "SnapKVPress",
                "2404.14469",
                "Keeps what the last tokens attend to. Window 64, mean pooling of 5: not the "
                "paper's code (window 32, max pooling of 7).",
                _WINDOW,
                needs="window_size",
            ),
            Policy("knorm", "KnormPress", "2406.11430", "Keeps keys of small norm."),
            Policy(
                "streaming_llm",
                "StreamingLLMPress",
                "2309.17453",
                "Keeps the first tokens and the most recent ones, at their original positions.",
                {"n_sink": Param(4)},
                needs="n_sink",
                score_uses_budget=True,
            ),
            Policy(
                "tova",
                "TOVAPress",
                "2401.06104",
                "Keeps what the last token attends to.",
                floor=1,
            ),
            Policy(
                "expected_attention",
                "ExpectedAttentionPress",
                "2510.00636",
                "Keeps what future queries are expected to attend to.",
                {
                    # kvpress makes a matrix of head_dim x head_dim for each.
                    "n_future_positions": Param(512, low=1, high=4096),
                    "n_sink": Param(4),
                    "use_covariance": Param(True),
                    "use_vnorm": Param(True),
                    "epsilon": Param(0.0),
                },
                needs="n_sink",
            ),
            Policy(
                "random",
                "RandomPress",
                "",
                "Keeps tokens at random, seeded: the baseline any policy must beat.",
                {"seed": Param(0, high=2**63 - 1)},
            ),
            Policy("keydiff", "KeyDiffPress", "2504.15364", "Keeps keys unlike the average key."),
            Policy(
                "pyramidkv",
                "PyramidKVPress",
                "2406.02069",
                "snapkv's scores, more tokens in lower layers. Falls back to snapkv where too few "
                "are kept; the reply's note says so.",
                {**_WINDOW, "beta": Param(20, low=1)},
                needs="window_size",
            ),
        )
    }
)


def get_policy(name: str) -> Policy:
    """The policy of that name.

    Raises:
        UsageError: no policy has that name; the second line names all.
    """
    if name not in POLICIES:
        raise UsageError(f"unknown policy {name!r}.", f"Valid: {', '.join(POLICIES)}.")
    return POLICIES[name]
