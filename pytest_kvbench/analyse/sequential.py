"""Ask no more than it takes: examples drawn in rounds until each cell is decided.

A cell group draws its examples in one fixed order, contexts whole. After every round each open cell
is judged by `betting`, whose error rate no looking inflates; it closes when its verdict is decided,
when there are no more examples, or when not even good luck would decide it with those that are
left. Far from the transition that takes few examples, near it all of them.

A cell's verdict is that of its ladder: of the error alpha / m that each of its k cells brings, half
stays with the cell and half goes to the first of the ladder, the largest budget for `holds`, the
smallest for `breaks`. A decided cell hands all it has to the next (`families.fallback`; no
assumption on the order is needed). So a cell far from the transition is soon tested at nearly k
times alpha / m, and the error of the whole plan stays alpha.

Where a group stands is a function of its pairs in their order: nothing else need be stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from pytest_kvbench.analyse.betting import Betting, betting_of
from pytest_kvbench.analyse.evidence import p_breaks, p_holds
from pytest_kvbench.analyse.multiplicity import fallback
from pytest_kvbench.records import VerdictWord

FEWEST_PER_ROUND = 4  # a round waits for its last answer
ROUND_SHARE = 24  # a round adds a 24th of what was drawn: some 2% beyond what it takes

State = Literal["open", "decided", "out of reach", "all drawn"]


class Rung(NamedTuple):
    """A treated cell within its group."""

    policy: str
    budget: float


@dataclass(frozen=True)
class Limits:
    """How a group is sampled.

    Args:
        margin: the loss that is still acceptable.
        alpha: the two-sided error of the plan over the number of its treated cells.
        least: examples before the first look, at least 1.
        most: examples at which to stop.
    """

    margin: float
    alpha: float
    least: int
    most: int


@dataclass(frozen=True)
class Standing:
    """How far a cell is.

    `n` examples were drawn for it; `alpha` is the two-sided level its verdict was reached at, or
    would be tested at now.
    """

    n: int
    state: State
    verdict: VerdictWord
    alpha: float


@dataclass(frozen=True)
class Progress:
    """Where a group stands: `n` examples are wanted for every open cell, and for the control."""

    n: int
    cells: Mapping[Rung, Standing]
    tested: Mapping[Rung, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether another round is wanted."""
        return any(s.state == "open" for s in self.cells.values())

    def wanted(self, rung: Rung) -> int:
        """How many examples, from the first, a cell is to have."""
        standing = self.cells[rung]
        return self.n if standing.state == "open" else standing.n


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is known of a group, in drawing order.

    Args:
        clusters: shape (N,), the context of every example that could be drawn; equal ones adjoin.
        differences: per cell, treated minus control for the examples settled so far, from the
            first without a gap: shape (<= N,), NaN where a pair was lost.
        highs: the most that the differences can be of cells whose scores are known between bounds;
            `differences` are then the least.
    """

    clusters: np.ndarray
    differences: Mapping[Rung, np.ndarray]
    highs: Mapping[Rung, np.ndarray] = field(default_factory=dict)

    @cached_property
    def largest(self) -> int:
        """Examples of the largest context that could be drawn."""
        return int(np.unique(self.clusters, return_counts=True)[1].max(initial=1))


def drawing_order(clusters: Sequence[str]) -> list[int]:
    """Positions in the order they are drawn: contexts by first appearance, each kept whole."""
    first: dict[str, int] = {}
    for position, cluster in enumerate(clusters):
        first.setdefault(cluster, position)
    return sorted(range(len(clusters)), key=lambda position: first[clusters[position]])


def start(rungs: Sequence[Rung], clusters: np.ndarray, limits: Limits) -> Progress:
    """A group of which nothing is known yet."""
    n = whole(clusters, limits.least, limits)
    standing = Standing(n, "open", "undetermined", limits.alpha)
    return Progress(n, dict.fromkeys(rungs, standing))


def whole(clusters: np.ndarray, n: int, limits: Limits) -> int:
    """`n` rounded up to whole contexts, at most all there are."""
    n = min(n, limits.most, len(clusters))
    while 0 < n < len(clusters) and clusters[n] == clusters[n - 1]:
        n += 1
    return n


def advance(progress: Progress, drawn: Drawn, limits: Limits) -> Progress:
    """Go on as far as the answers reach; `progress` may be `start` or any later one."""
    while progress.is_open and all(
        len(drawn.differences[rung]) >= progress.n
        for rung, standing in progress.cells.items()
        if standing.state == "open"
    ):
        progress = next_round(progress, drawn, limits)
    return progress


def next_round(progress: Progress, drawn: Drawn, limits: Limits) -> Progress:
    """Judge every open cell on the `progress.n` examples it has; say how many are wanted next."""
    n = progress.n
    following = whole(drawn.clusters, n + max(FEWEST_PER_ROUND, n // ROUND_SHARE), limits)
    tested, cells = dict(progress.tested), {}
    for rung, standing in progress.cells.items():
        if standing.state == "open":
            tested[rung] = p_values(drawn, rung, n, limits.margin)
    for rung, (verdict, alpha) in group_verdicts(tested, limits.alpha).items():
        standing = progress.cells[rung]
        if standing.state == "open":
            standing = replace(standing, n=n, state=_state(drawn, rung, n, following, limits))
        state = standing.state if verdict == "undetermined" else "decided"
        cells[rung] = replace(standing, state=state, verdict=verdict, alpha=alpha)
    return Progress(following, cells, tested)


def p_values(drawn: Drawn, rung: Rung, n: int, margin: float) -> tuple[float, float]:
    """(of holds, of breaks) on a cell's first `n` examples; 1 where every pair was lost.

    It holds only if it did as well were every lost pair a loss.
    """
    differences, codes = _kept(drawn, rung, n)
    if not len(differences):
        return 1.0, 1.0
    evidence = betting_of(differences, codes, drawn.largest)
    holds = max(p_holds(e, margin) for e in (evidence, _worst(drawn, rung, n)))
    return holds, p_breaks(_best(drawn, rung, n), margin)


def _best(drawn: Drawn, rung: Rung, n: int) -> Betting:
    """The evidence of the pairs that were kept, read in favour of the treatment."""
    least, codes = _kept(drawn, rung, n)
    highs = drawn.highs.get(rung)
    kept = least if highs is None else highs[:n][~np.isnan(drawn.differences[rung][:n])]
    return betting_of(kept, codes, drawn.largest)


def _worst(drawn: Drawn, rung: Rung, n: int) -> Betting:
    """The evidence were every lost pair a loss."""
    differences = np.nan_to_num(drawn.differences[rung][:n], nan=-1.0)
    codes = np.unique(drawn.clusters[:n], return_inverse=True)[1]
    return betting_of(differences, codes, drawn.largest)


def _kept(drawn: Drawn, rung: Rung, n: int) -> tuple[np.ndarray, np.ndarray]:
    differences = drawn.differences[rung][:n]
    kept = ~np.isnan(differences)
    return differences[kept], np.unique(drawn.clusters[:n][kept], return_inverse=True)[1]


def _state(drawn: Drawn, rung: Rung, n: int, following: int, limits: Limits) -> State:
    """The state of a cell that is not decided."""
    if following <= n:
        return "all drawn"
    most = whole(drawn.clusters, limits.most, limits)
    differences, codes = _kept(drawn, rung, n)
    if not len(differences):
        return "open"
    # the most that its ladder could ever hand to it
    ladder = sum(other.policy == rung.policy for other in drawn.differences)
    enough = -math.log(ladder * limits.alpha / 2)
    evidence, growth = (
        betting_of(differences, codes, drawn.largest),
        1 + (most - n) / len(differences),
    )
    holds = evidence.log_hope(-limits.margin, growth)
    breaks = _best(drawn, rung, n).mirrored().log_hope(limits.margin, growth)
    return "open" if max(holds, breaks) > enough else "out of reach"


# -- the verdicts of ladders -----------------------------------------------------------------------


def group_verdicts(
    tested: Mapping[Rung, tuple[float, float]], alpha: float
) -> dict[Rung, tuple[VerdictWord, float]]:
    """Each cell's verdict and the two-sided level it was tested at.

    Args:
        tested: (p of holds, p of breaks) of the cells of one group.
        alpha: the two-sided error that each cell brings.
    """
    verdicts: dict[Rung, tuple[VerdictWord, float]] = {}
    ordered = sorted(tested)
    for _, ladder in itertools.groupby(ordered, key=lambda rung: rung.policy):
        upwards = list(ladder)
        holds = fallback([tested[rung][0] for rung in reversed(upwards)], alpha)[::-1]
        breaks = fallback([tested[rung][1] for rung in upwards], alpha)
        for rung, held, broken in zip(upwards, holds, breaks, strict=True):
            verdicts[rung] = _verdict(tested[rung], held, broken)
    return verdicts


def _verdict(p: tuple[float, float], held: float, broken: float) -> tuple[VerdictWord, float]:
    if p[0] < held / 2:
        return "holds", held
    return ("breaks", broken) if p[1] < broken / 2 else ("undetermined", max(held, broken))
