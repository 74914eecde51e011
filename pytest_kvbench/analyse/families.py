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

    Half of what the hypotheses bring stays with them, half starts with the first; one that is
    rejected hands all it had to the next (Wiens and Dmitrienko 2005). Their sum is the ladder's
    error whatever is true, and however the p-values depend on each other.

    Args:
        p_values: one-sided, in the order of testing.
        alpha: the two-sided error that each brings.
    """
    levels, handed = [], len(p_values) * alpha / 2
    for p in p_values:
        level = alpha / 2 + handed
        levels.append(level)
        handed = level if p < level / 2 else 0.0
    return levels
