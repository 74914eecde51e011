"""What a page of answers shows, whichever two things it compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.observation import Outcome
from pytest_kvbench.records import FULL_CACHE, Prompt
from pytest_kvbench.report import text
from pytest_kvbench.selection import ManifestEntry

Change = Literal["lost", "gained", "same", ""]


class Arm(NamedTuple):
    """Who answered. `side` names the group or baseline where two are compared."""

    policy: str
    budget: float
    variant: str = ""
    side: str = ""
    aa: bool = False

    @property
    def label(self) -> str:
        """As a heading: `control`, `control, again`, `snapkv 0.20 [terse]`."""
        arm = (
            "control" if self.policy == FULL_CACHE else f"{self.policy} {text.budget(self.budget)}"
        )
        words = [arm + (f" [{self.variant}]" if self.variant else "")]
        words += ["again"] if self.aa else []
        return ", ".join([*([self.side] if self.side else []), *words])


class Answer(NamedTuple):
    """One arm's answer to an example: places of both in the page's lists, and what came.

    `outcome` is None where nothing but the score was kept, `samples` how many replies voted.
    """

    example: int
    arm: int
    replicate: int
    score: float | None
    outcome: Outcome | None = None
    samples: int = 1


Pair = tuple[int | None, int]
"""The places of two answers: what is compared with, None where it is lacking, and what is."""

PromptOf = Callable[[ManifestEntry, str, str], Prompt | None]
"""The prompt as sent for an example in a variant under a policy; None where its task cannot make it
any more."""


def _unknown(_: ManifestEntry, __: str, ___: str) -> None:
    """Nothing is known of what was sent."""


@dataclass(frozen=True)
class Answers:
    """All that a page shows; `sides` says what its pairs are, as in control and treated."""

    sides: tuple[str, str]
    examples: Sequence[tuple[str, ManifestEntry]]
    arms: Sequence[Arm]
    answers: Sequence[Answer]
    pairs: Sequence[Pair]
    verdicts: Mapping[CellKey, str] = field(default_factory=dict)
    prompt_of: PromptOf = _unknown

    def change(self, pair: Pair) -> Change:
        """What became of the score; "" where one of both has none."""
        left, right = pair
        was = None if left is None else self.answers[left].score
        now = self.answers[right].score
        if was is None or now is None:
            return ""
        return "same" if was == now else "lost" if now < was else "gained"
