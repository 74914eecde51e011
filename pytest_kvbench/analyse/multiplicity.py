"""Many cells: one error rate for all of them, separately for each direction.

Holm (1979) bounds the chance of any false verdict in a direction by alpha / 2; Benjamini and
Hochberg (1995) bound the share of false verdicts. The members of a family that have no p-value (not
measured, not run) count as never rejected, so a family is never made smaller by what was selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pytest_kvbench.analyse.rules import Correction

Bonferroni = Literal["bonferroni"]  # of items: it needs no other member's p-value


def adjusted(
    p_values: Sequence[float], members: int, correction: Correction | Bonferroni
) -> np.ndarray:
    """Adjusted p-values, in the order given: shape (len(p_values),).

    Args:
        p_values: one per member that was tested.
        members: size of the family, at least `len(p_values)`; the rest have p = 1.
        correction: "holm", "bh", "none", or "bonferroni".
    """
    p = np.asarray(p_values, dtype=float)
    if correction == "none" or not len(p):
        return p
    members = max(members, len(p))
    if correction == "bonferroni":
        return (p * members).clip(max=1.0)
    order = np.argsort(p, kind="stable")
    rank = np.arange(len(p))
    if correction == "holm":
        stepped = np.maximum.accumulate(p[order] * (members - rank))
    else:
        stepped = np.minimum.accumulate((p[order] * members / (rank + 1))[::-1])[::-1]
    result = np.empty(len(p))
    result[order] = np.minimum(stepped, 1.0)
    return result


def fallback(p_values: Sequence[float], alpha: float) -> list[float]:
    """The two-sided level that each hypothesis of a ladder is tested at, one-sidedly at its half.

    Half of what the hypotheses bring stays with them, half starts with the first. One that is
    rejected hands all it has to the next that is not, and after the last comes the first again: the
    extended fallback procedure (Wiens and Dmitrienko 2005), a graph in the sense of Bretz et al.
    (2009). Whatever is true, the chance of any false rejection is the ladder's error at most.

    Args:
        p_values: one-sided, in the order of testing.
        alpha: the two-sided error that each brings.
    """
    alone = np.full(len(p_values), alpha / 2)
    alone[:1] += alpha / 2 * len(alone)
    levels, rejected = alone.copy(), np.zeros(len(alone), dtype=bool)
    while (new := ~rejected & (np.asarray(p_values) < levels / 2)).any():
        rejected |= new
        levels = np.where(rejected, levels, _handed_on(alone, rejected))
    return [float(level) for level in levels]


def _handed_on(alone: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """What each has with what the rejected ones in front of it, all round, have handed to it."""
    levels = alone.copy()
    for place in np.flatnonzero(~rejected):
        before = place - 1
        while rejected[before]:
            levels[place] += alone[before]
            before -= 1
    return levels
