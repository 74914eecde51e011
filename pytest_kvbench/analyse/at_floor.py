"""Whether a full cache has anything to lose: where it has not, any treatment seems to hold.

Every item asks this. Where a glance at the mean will do, no arrays are loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.05
"""Of the test that a control beats guessing, one-sided."""


def nothing_to_lose(
    control: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray,
    *,
    chance: float,
    floor: float | None,
    margin: float,
    alpha: float,
    anytime: bool = False,
    largest: int = 1,
    retain: float | None = None,
) -> str:
    """Why no loss could show in a cell with this control, in words; empty where one could.

    Its mean is not above the floor; or so many examples that a cell could hold do not show that it
    beats guessing; or it is so low that even a treatment that loses everything would hold.

    Args:
        control: the control's scores in [0, 1].
        clusters: equal where examples share a context.
        chance: the mean score of guessing.
        floor: the score that is as good as none, `gate.control_floor`; None: chance.
        margin: the loss that is still acceptable.
        alpha: two-sided level of the verdicts.
        anytime: as `judge_cell` takes it.
        largest: this too.
        retain: the share of the control's score to keep, of which a treatment that loses everything
            never keeps enough.
    """
    if not len(control):
        return ""
    mean, least = fmean(control), chance if floor is None else floor
    named = f"chance, {chance:.2g}" if floor is None and chance else f"{least:g}"
    if mean <= least:
        return _said(mean, f"not above gate.control_floor ({named})")
    if floor is None and chance and margin and _guessing_does(control, chance, margin, alpha):
        return _said(mean, f"which guessing does too ({named})")
    if mean >= margin or retain is not None:
        return ""
    from pytest_kvbench.analyse.cell import judge_cell

    nothing = [0.0] * len(control)
    lost = judge_cell(
        control, nothing, clusters, margin=margin, alpha=alpha, anytime=anytime, largest=largest
    )
    return _said(mean, f"less than gate.margin ({margin:g})") if lost.verdict == "holds" else ""


def _guessing_does(
    control: Sequence[float] | np.ndarray, chance: float, margin: float, alpha: float
) -> bool:
    """Whether so many examples that a cell could hold do not show that it beats guessing."""
    from scipy.special import bdtrc

    from pytest_kvbench.analyse.power import fewest

    right = math.ceil(math.fsum(control) - 1e-9)
    enough = len(control) >= fewest(margin, alpha)
    return enough and bool(bdtrc(right - 1, len(control), chance) > LEVEL)


def _said(mean: float, why: str) -> str:
    return f"the full cache scores {mean:.3f}, {why}: there is nothing to lose"
