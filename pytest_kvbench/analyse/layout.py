"""What a plan can decide at best, known before anything is asked.

A row over bins whose pairs lose nothing holds its margin, or no row of that plan ever can; the rule
is the one that will judge it, at the level that is left when all rows of the family do as well.
Where a closed form says as much, nothing of the rule is loaded: every run asks this as it starts.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_kvbench.analyse.multiplicity import adjusted
from pytest_kvbench.analyse.rules import Rules

if TYPE_CHECKING:
    from pytest_kvbench.analyse.evidence import Evidence

SLACK = 1.1
"""Of a p-value's bound: those of contexts are approximations, exact to a few percent."""
MOST = 10_000  # examples of a bin; beyond, "more examples" is no advice
MOST_BETS = (
    12  # bins bet on apart; of more it is said what they could do as one, which takes no time
)


@dataclass(frozen=True)
class Layout:
    """The contexts that rows over bins rest on.

    Args:
        bins: of each bin, the sizes of its contexts in drawing order; no bin is empty.
        rows: how many rows rest on them.
    """

    bins: tuple[tuple[int, ...], ...]
    rows: int = 1

    @property
    def n(self) -> int:
        """Examples in all bins."""
        return sum(map(sum, self.bins))

    @property
    def smallest(self) -> Layout:
        """The bin of the fewest examples, as a cell of its own."""
        return Layout((min(self.bins, key=sum),))

    def grown(self, n: int) -> Layout:
        """`n` examples in every bin, in contexts of the same sizes; the last may be cut."""
        return replace(self, bins=tuple(_repeated(sizes, n) for sizes in self.bins))


def _repeated(sizes: Sequence[int], n: int) -> tuple[int, ...]:
    ends = itertools.accumulate(itertools.cycle(sizes))
    whole = list(itertools.takewhile(lambda end: end < n, ends))
    return tuple(end - start for start, end in itertools.pairwise([0, *whole, n]))


@dataclass(frozen=True)
class Prospect:
    """What the rows of a layout can become.

    Args:
        holds: they can hold, if nothing is lost.
        breaks: they can break, if everything is lost.
        needed: the fewest examples per bin with which they could hold; None where they can, and
            where 10,000 would not do.
    """

    holds: bool
    breaks: bool
    needed: int | None = None


def prospects(layouts: Sequence[Layout], rules: Rules) -> list[Prospect]:
    """What the rows of each layout can become, all of them one family."""
    if not layouts:
        return []
    rows = [layout.rows for layout in layouts]
    lossless = [p_lossless(layout, rules) for layout in layouts]
    holds = rejected(lossless, rows, rules)
    breaks = rejected([_p_hopeless(layout, rules) for layout in layouts], rows, rules)
    return [
        Prospect(held, broken, None if held else _needed(layouts, lossless, place, rules))
        for place, (held, broken) in enumerate(zip(holds, breaks, strict=True))
    ]


def surely_hold(layouts: Sequence[Layout], rules: Rules) -> bool:
    """Whether the rows of each layout surely can hold; where not, `prospects` says whether."""
    rows = sum(layout.rows for layout in layouts)
    level = rules.alpha / 2 / max(1, rows)  # Bonferroni's: what it rejects, all others do
    return not rules.anytime and all(_p_at_most(layout, rules) < level for layout in layouts)


def _p_at_most(layout: Layout, rules: Rules) -> float:
    """A bound on `p_lossless`, but for rounds: that of `bounded`, whose integral is a product.

    P(sum of E_g gain w_g <= E loss max w) for standard exponential E, over contexts of weight w_g.
    """
    gain = rules.margin if rules.retain is None else 1 - rules.retain
    loss = 1 - _margin(rules)
    weights = [size / sum(sizes) for sizes in layout.bins for size in sizes]
    odds = gain / loss / max(weights)
    return SLACK * math.exp(-math.fsum(math.log1p(odds * weight) for weight in weights))


@functools.lru_cache(maxsize=1024)
def p_lossless(layout: Layout, rules: Rules) -> float:
    """The p-value of `holds` where every pair is equal."""
    if _is_plain(layout, rules):
        return float((1 - rules.margin) ** layout.n)
    from pytest_kvbench.analyse.evidence import p_holds

    return p_holds(_evidence(layout, 1.0, rules), _margin(rules))


@functools.lru_cache(maxsize=1024)
def _p_hopeless(layout: Layout, rules: Rules) -> float:
    """The p-value of `breaks` where every right answer is lost."""
    if _is_plain(layout, rules):
        return float(((1 + rules.margin) / 2) ** layout.n)
    from pytest_kvbench.analyse.evidence import p_breaks

    return p_breaks(_evidence(layout, 0.0, rules), _margin(rules))


def _is_plain(layout: Layout, rules: Rules) -> bool:
    """Whether all bins have equally many examples, each independent, and none is a share."""
    alike = len({len(sizes) for sizes in layout.bins}) == 1 and set().union(*layout.bins) == {1}
    return alike and rules.retain is None and not rules.anytime


def _margin(rules: Rules) -> float:
    return rules.margin if rules.retain is None else 0.0  # below a share of the control


def _evidence(layout: Layout, treated: float, rules: Rules) -> Evidence:
    import numpy as np

    from pytest_kvbench.analyse.pooled import over_bins

    bins = layout.bins
    if rules.anytime and len(bins) > MOST_BETS:
        bins = (tuple(itertools.chain(*bins)),)
    control = rules.retain or 1.0
    strata = [
        (np.full(n, control), np.full(n, treated), np.repeat(np.arange(len(sizes)), sizes))
        for sizes, n in zip(bins, map(sum, bins), strict=True)
    ]
    return over_bins(strata, anytime=rules.anytime)


def rejected(p_values: Sequence[float], rows: Sequence[int], rules: Rules) -> list[bool]:
    """Which p-values are small enough, each that of so many rows of one family."""
    family = [p for p, n in zip(p_values, rows, strict=True) for _ in range(n)]
    every = adjusted(family, 0, rules.correction)
    firsts = itertools.accumulate(rows[:-1], initial=0)
    return [every[first] < rules.alpha / 2 for first in firsts]


def _needed(layouts: Sequence[Layout], p: Sequence[float], place: int, rules: Rules) -> int | None:
    """The fewest examples per bin with which the rows of one layout could hold."""
    layout, rows = layouts[place], [layout.rows for layout in layouts]

    def could(n: int) -> bool:
        grown = p_lossless(layout.grown(n), rules)
        return rejected([*p[:place], grown, *p[place + 1 :]], rows, rules)[place]

    return fewest_that(could, _guess(layout, p[place], rules.alpha / 2 / sum(rows)))


def _guess(layout: Layout, p: float, level: float) -> float:
    """About the examples per bin that reach a level: a p-value falls by a factor an example."""
    n = layout.n / len(layout.bins)
    return n * math.log(level) / math.log(p) if p < 1 else 8 * n


def fewest_that(could: Callable[[int], bool], guess: float) -> int | None:
    """The least count that will do, where more always do; None above `MOST`.

    From a guess by steps that double, then by halves: a few questions, as each may take a while.
    """
    if guess > MOST:
        return None
    low = high = max(1, round(guess))
    step = max(1, low // 16)
    while low and could(low):
        low, high, step = max(0, low - step), low, 2 * step
    while high == low or not could(high):
        low, high, step = high, high + step, 2 * step
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if could(middle) else (middle, high)
    return high
