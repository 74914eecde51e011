"""Many cells: one error rate for all of them, separately for each direction.

Holm (1979) bounds the chance of any false verdict in a direction by alpha / 2; Benjamini and
Hochberg (1995) bound the share of false verdicts. The members of a family that have no p-value (not
measured, not run) count as never rejected, so a family is never made smaller by what was selected.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import accumulate
from typing import Literal

from pytest_kvbench.analyse.rules import Correction

Bonferroni = Literal["bonferroni"]  # of items: it needs no other member's p-value


def adjusted(
    p_values: Sequence[float], members: int, correction: Correction | Bonferroni
) -> list[float]:
    """Adjusted p-values, in the order given.

    Args:
        p_values: one per member that was tested.
        members: size of the family, at least `len(p_values)`; the rest have p = 1.
        correction: "holm", "bh", "none", or "bonferroni".
    """
    if correction == "none":
        return list(p_values)
    members = max(members, len(p_values))
    if correction == "bonferroni":
        return [min(p * members, 1.0) for p in p_values]
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    ranked = [p_values[place] for place in order]
    if correction == "holm":
        stepped = list(accumulate((p * (members - rank) for rank, p in enumerate(ranked)), max))
    else:
        shares = [p * members / rank for rank, p in enumerate(ranked, 1)]
        stepped = list(accumulate(reversed(shares), min))[::-1]
    found = dict(zip(order, stepped, strict=True))
    return [min(found[place], 1.0) for place in range(len(p_values))]


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
    alone = [alpha / 2] * len(p_values)
    alone[:1] = [level + alpha / 2 * len(alone) for level in alone[:1]]
    levels, rejected = alone, set[int]()
    while new := {i for i, p in enumerate(p_values) if i not in rejected and p < levels[i] / 2}:
        rejected |= new
        handed = _handed_on(alone, rejected)
        levels = [levels[i] if i in rejected else handed[i] for i in range(len(alone))]
    return levels


def _handed_on(alone: Sequence[float], rejected: Set[int]) -> list[float]:
    """What each has with what the rejected ones in front of it, all round, have handed to it."""
    levels = list(alone)
    for place in {*range(len(alone))} - rejected:
        before = place - 1
        while before % len(alone) in rejected:
            levels[place] += alone[before]
            before -= 1
    return levels
