"""Whether a full cache has anything to lose: where it has not, any treatment seems to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import bdtrc

from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.power import fewest

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
        control: the control's scores in [0, 1], shape (n,).
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
    scores = np.asarray(control, dtype=float)
    if not len(scores):
        return ""
    mean, least = float(scores.mean()), chance if floor is None else floor
    named = f"chance, {chance:.2g}" if floor is None and chance else f"{least:g}"
    if mean <= least:
        return _said(mean, f"not above gate.control_floor ({named})")
    if floor is None and chance and margin and len(scores) >= fewest(margin, alpha):
        right = int(np.ceil(scores.sum() - 1e-9))
        if bdtrc(right - 1, len(scores), chance) > LEVEL:
            return _said(mean, f"which guessing does too ({named})")
    if mean >= margin or retain is not None:
        return ""
    nothing = np.zeros(len(scores))
    lost = judge_cell(
        scores, nothing, clusters, margin=margin, alpha=alpha, anytime=anytime, largest=largest
    )
    return _said(mean, f"less than gate.margin ({margin:g})") if lost.verdict == "holds" else ""


def _said(mean: float, why: str) -> str:
    return f"the full cache scores {mean:.3f}, {why}: there is nothing to lose"
