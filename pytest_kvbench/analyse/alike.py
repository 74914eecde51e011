"""Whether answers are as alike as those of one and the same arm asked twice.

Two runs of one arm may be swapped without anybody noticing: what differs between them is what
differs between the control and its own second run. Counts are of texts, over as many bins as there
are, whatever contexts they share: a flag warns, it is no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import bdtr, bdtrc

CHANGED = 0.3  # share of texts that a treatment which does something is taken to change
CHANGED_LEVEL = 0.05  # at which a change that large must be ruled out
FEWEST_QUIET = 0.5  # share of repeats that are alike, below which texts tell nothing
NOISE_LEVEL = 0.025  # at which a difference from the control's own noise is believed


@dataclass(frozen=True)
class Agreement:
    """Answers of two arms: `total`, those that are `equal`, and the control's own noise.

    `noise` is how many of the control's repeats differ from it, `apart` how many answers differ
    where the control repeats itself, `together` how many are equal where it does not; None where
    the control was not run a second time.
    """

    equal: int
    total: int
    noise: int | None = None
    apart: int = 0
    together: int = 0

    @classmethod
    def of(cls, equal: np.ndarray, repeated: np.ndarray, counted: np.ndarray | None = None) -> Self:
        """Of answers that are `equal` or not, shape (n,).

        Args:
            equal: whether the two arms gave one text.
            repeated: 1.0 where the control repeated itself, 0.0 where not, NaN where not asked.
            counted: which of the answers `equal` and `total` count; else all.
        """
        answered = ~np.isnan(repeated)
        counted = np.ones_like(equal) if counted is None else counted
        if not answered.any():
            return cls(int((equal & counted).sum()), int(counted.sum()))
        equal, steady, counted = equal[answered], repeated[answered] > 0, counted[answered]
        return cls(
            equal=int((equal & counted).sum()),
            total=int(counted.sum()),
            noise=int((~steady).sum()),
            apart=int((~equal & steady).sum()),
            together=int((equal & ~steady).sum()),
        )

    @property
    def rules_out_a_change(self) -> bool:
        """Whether fewer would be equal if a share of `CHANGED` of them were changed."""
        quiet = 1 - (self.noise or 0) / self.total if self.total else 0.0
        if quiet < FEWEST_QUIET or not self.equal:
            return False
        chance = bdtrc(self.equal - 1, self.total, (1 - CHANGED) * quiet)
        return bool(chance < CHANGED_LEVEL)

    @property
    def exceeds_noise(self) -> bool:
        """Whether fewer are equal than the control's own noise leaves: an exact sign test."""
        return is_lopsided(self.apart, self.together)


def is_lopsided(many: int, few: int) -> bool:
    """Whether so `many` against so `few` is more than two runs of one arm would give."""
    return bool(bdtr(few, many + few, 0.5) < NOISE_LEVEL)
