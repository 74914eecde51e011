"""Length bins and the seeded choice of examples inside each.

Everything here is a pure function of the examples' content and sizes: row order never matters.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example
from pytest_kvbench.selection import Bin

SizeUnit = Literal["tokens", "length"]


@dataclass(frozen=True)
class BinSpec:
    """How prompts are put into length classes, and how many examples each class gets.

    Args:
        n: number of bins.
        per_bin: examples wanted in each bin; one number stands for all bins.
        edges: inner edges, increasing; `n == len(edges) + 1`. None: equally wide bins over
            `range` for generated tasks, quantiles of the data for data sets.
        range: shortest and longest prompt of generated tasks, in tokens.
        by: what the size of an example is: tokens of its prompt, or the data set's own `length`.

    Raises:
        UsageError: numbers that contradict each other.
    """

    n: int
    per_bin: tuple[int, ...]
    edges: tuple[int, ...] | None = None
    range: tuple[int, int] = (256, 2048)
    by: SizeUnit = "tokens"

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_edges()
        low, high = self.range
        if not 0 < low < high:
            raise UsageError(f"bins.range: {list(self.range)}", "give [low, high], 0 < low < high")

    def _check_counts(self) -> None:
        if self.n < 1:
            raise UsageError(f"bins.n: {self.n}", "give a number of bins, 1 or more")
        if len(self.per_bin) not in {1, self.n}:
            raise UsageError(
                f"bins.per_bin: {len(self.per_bin)} numbers for {self.n} bins",
                f"give one number, or {self.n} of them",
            )
        if min(self.per_bin) < 0:
            raise UsageError(f"bins.per_bin: {list(self.per_bin)}", "counts are 0 or more")

    def _check_edges(self) -> None:
        if self.edges is None:
            return
        if self.n != len(self.edges) + 1:
            raise UsageError(
                f"bins.edges: {len(self.edges)} inner edges make {len(self.edges) + 1} bins, "
                f"but bins.n is {self.n}",
                "change one of the two",
            )
        if any(a >= b for a, b in itertools.pairwise(self.edges)) or min(self.edges, default=1) < 1:
            raise UsageError(f"bins.edges: {list(self.edges)}", "give increasing numbers from 1 up")

    def wanted(self, index: int) -> int:
        """How many examples bin `index` asks for."""
        return self.per_bin[index if len(self.per_bin) > 1 else 0]

    def generated_bins(self) -> tuple[Bin, ...]:
        """The finite bins that generated tasks fill."""
        low, high = self.range
        if self.edges is None:
            edges = [low + (high - low) * i // self.n for i in range(self.n + 1)]
        elif not self.edges:
            edges = [low, high]
        else:
            first, last = self.edges[0], self.edges[-1]
            edges = [low if low < first else first // 2, *self.edges]
            edges += [high if high > last else 2 * last]
        return tuple(Bin(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(edges)))

    def data_bins(self, sizes: Sequence[int]) -> tuple[Bin, ...]:
        """The bins of a data set whose examples have these sizes; the outer ones are open."""
        inner = self.edges if self.edges is not None else quantile_edges(sizes, self.n)
        bounds = [None, *inner, None]
        return tuple(Bin(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(bounds)))


def quantile_edges(sizes: Sequence[int], n: int) -> tuple[int, ...]:
    """`n - 1` inner edges that split `sizes` into bins of near-equal count.

    An edge is the size of the first example of the upper bin. Equal sizes cannot be split: edges
    that would fall together move apart, so that no bin is empty while there are `n` different
    sizes. Where there are fewer the first bins are empty: see `empty_bins`.
    """
    ordered, distinct = sorted(sizes), sorted(set(sizes))
    if not ordered:
        return tuple(range(1, n))
    if len(distinct) < n:
        return (distinct[0],) * (n - len(distinct)) + tuple(distinct[1:])
    edges, place = [], 0
    for i in range(1, n):
        wanted = bisect_left(distinct, ordered[len(ordered) * i // n])
        place = min(max(wanted, place + 1), len(distinct) - (n - i))
        edges.append(distinct[place])
    return tuple(edges)


def empty_bins(sizes: Sequence[int], n: int) -> str:
    """Which bins at quantiles of `sizes` must be empty, in a sentence with advice; "" if none."""
    common = Counter(sizes).most_common()
    empty = n - len(common)
    if not sizes or empty <= 0:
        return ""
    which = "bin 0 is" if empty == 1 else f"bins 0 to {empty - 1} are"
    lengths = f"only {len(common)} different length" + "s" * (len(common) > 1)
    size, times = common[0]
    return (
        f"{which} empty: {len(sizes):,} examples have {lengths} ({times:,} are {size:,} long), and "
        f"{n} bins were asked for. Use bins.n: {len(common)}, bins.edges, or more varied data"
    )


def bin_of(bins: Sequence[Bin], size: int) -> int | None:
    """Index of the bin that holds `size`, or None where it is outside all of them."""
    lows = [b.low if b.low is not None else -1 for b in bins]
    position = bisect_right(lows, size) - 1
    if position < 0:
        return None
    high = bins[position].high
    return bins[position].index if high is None or size < high else None


def size_of(example: Example, tokens: int, by: SizeUnit) -> int:
    """The size that decides about the bin of an example."""
    if by == "tokens":
        return tokens
    length = example.meta.get("length")
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 2**63:
        raise UsageError(
            f"bins.by: length, but example {example.example_id} has no whole-number `length`",
            "use by: tokens, or give every row a length of 0 or more",
        )
    return length


class Candidate(NamedTuple):
    """An example that may be chosen, its bin and its prompt's token count."""

    example: Example
    bin: int
    tokens: int


def select(candidates: Sequence[Candidate], spec: BinSpec, seed: int) -> list[Candidate]:
    """The examples to ask: `spec.wanted` of every bin, ordered by bin, then by seeded hash."""

    def rank(one: Candidate) -> bytes:
        return hashlib.sha256(f"{seed}:{one.example.example_id}".encode()).digest()

    ordered = sorted(candidates, key=lambda one: (one.bin, rank(one)))
    groups = itertools.groupby(ordered, key=lambda one: one.bin)
    return [e for index, group in groups for e in itertools.islice(group, spec.wanted(index))]
