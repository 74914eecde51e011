"""Whether prompts arrived whole: what a server counted of them, beside what there is to count.

A server with a short context keeps the end of a longer prompt and answers it; nothing but
`usage.prompt_tokens` says so. Free of pandas: whoever measures one cell imports this too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_kvbench import hints
from pytest_kvbench.observation import Cut

SAME_LEAST = 0.98
"""Share of another count of the prompt, by the same tokenizer, that a whole one has at least."""
OTHER_LEAST = 0.5
"""The same of a count by any other tokenizer: `approximate` is off by a quarter, on code by more.
"""
SLACK = 8  # tokens by which two counts of one prompt may differ, whatever its length

FLAT_FEWEST = 3  # prompts of one largest count
FLAT_RATIO = 1.1  # of our counts of them, the largest to the smallest
FLAT_TOKENS = 64  # between these two

BAND = 0.9  # of the largest count, from which on counts are taken for equal
LONGER = 1.5  # times the shortest prompt of that band: by as much a count would have grown
RATES = (0.6, 4.0)  # tokens of a server's tokenizer for one of ours
TEMPLATE = 200.0  # tokens of a chat template, at most
NOISE = 0.25  # by which a prompt's rate differs from that of others
_HALVINGS = 40
_ROUNDED = 2.0  # tokens

Counts = tuple[int, int]
"""Our count of a prompt's tokens, and the server's."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One answered prompt.

    `arm` is what one server answered, `prompt` what all arms were sent alike. `ours` is our count
    of its tokens, before any chat template, and `serving` whether that is by the server's own
    tokenizer; `theirs` is the server's, None where it does not count.
    """

    arm: Hashable
    prompt: Hashable
    ours: int
    serving: bool
    theirs: int | None


@dataclass(frozen=True)
class Plateau:
    """Where a server's counts stop growing: the count, and our counts of its prompts."""

    arrived: int
    shortest: int
    longest: int

    def cut_of(self, ours: int, theirs: int) -> Cut | None:
        """How a prompt of these counts was cut; None where it is not one of those."""
        is_cut = ours >= self.shortest and theirs >= self.arrived
        return Cut(theirs, self.longest, flat=True) if is_cut else None


def cuts(sent: Sequence[Sent]) -> list[Cut | None]:
    """Of each prompt, how it was cut; None where it arrived whole, or nobody counted.

    It was, where the server counted fewer tokens than of the same prompt for another arm, far
    fewer than we do, or where its largest counts are those of prompts of many lengths.
    """
    most = _largest((one.prompt, one.theirs) for one in sent)
    flat = dict(_flat(sent))
    return [_cut(one, most.get(one.prompt, 0), flat.get(one.arm)) for one in sent]


def _cut(one: Sent, most: int, flat: Plateau | None) -> Cut | None:
    if not one.theirs:
        return None
    least = SAME_LEAST if one.serving else OTHER_LEAST
    whole = max(most, one.ours) if one.serving else most
    if one.theirs < SAME_LEAST * whole - SLACK:
        return Cut(one.theirs, whole)
    if one.theirs < least * one.ours - SLACK:
        return Cut(one.theirs, one.ours)
    return flat.cut_of(one.ours, one.theirs) if flat else None


def _largest(counts: Iterable[tuple[Hashable, int | None]]) -> dict[Hashable, int]:
    found: dict[Hashable, int] = {}
    for name, count in counts:
        found[name] = max(found.get(name, 0), count or 0)
    return found


def _flat(sent: Sequence[Sent]) -> Iterator[tuple[Hashable, Plateau]]:
    """The arms whose counts stop growing, each with where."""
    arms: dict[Hashable, list[Sent]] = {}
    for one in sent:
        if one.theirs:
            arms.setdefault(one.arm, []).append(one)
    for arm, some in arms.items():
        counts = [*{one.prompt: (one.ours, one.theirs or 0) for one in some}.values()]
        found = _one_count(counts) or _one_band(counts)
        if found is not None:
            yield arm, found


def _one_count(counts: Sequence[Counts]) -> Plateau | None:
    """The largest count, where prompts of many lengths have exactly that."""
    most = max(theirs for _, theirs in counts)
    ours = [ours for ours, theirs in counts if theirs == most]
    low, high = min(ours), max(ours)
    grows = high < max(FLAT_RATIO * low, low + FLAT_TOKENS)
    return Plateau(most, low, high) if len(ours) >= FLAT_FEWEST and not grows else None


def _one_band(counts: Sequence[Counts]) -> Plateau | None:
    """The largest counts, where longer prompts have no more than much shorter ones.

    A cap may lie anywhere in a band, as where servers cut at blocks or between messages; so no
    tokenizer, however far off ours is, may explain these counts.
    """
    most = max(theirs for _, theirs in counts)
    band = BAND * most
    longer = LONGER * min(ours for ours, theirs in counts if theirs >= band)
    cut = [(ours, theirs) for ours, theirs in counts if ours >= longer]
    if len(cut) < FLAT_FEWEST or min(theirs for _, theirs in cut) < band or _is_affine(counts):
        return None
    low, high = min(cut)[0], max(cut)[0]
    return Plateau(min(theirs for _, theirs in cut), low, high)


def _is_affine(counts: Sequence[Counts]) -> bool:
    """Whether a tokenizer of some rate and a template explain all counts, each within `NOISE`.

    For each rate the template is bounded from either side; how far the bounds cross is convex in
    the rate, so halving finds where it is least.
    """

    def crossed(rate: float) -> float:
        least = max(theirs - (1 + NOISE) * rate * ours for ours, theirs in counts)
        most = min(theirs - (1 - NOISE) * rate * ours for ours, theirs in counts)
        return max(least, 0.0) - min(most, TEMPLATE)

    low, high = RATES
    for _ in range(_HALVINGS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if crossed(left) < crossed(right) else (left, high)
    return crossed((low + high) / 2) <= _ROUNDED


def sentence(found: Sequence[Cut], of: int) -> str:
    """What is wrong where some of so many pairs' prompts did not arrive whole."""
    arrived, whole = (f"{median(counts):,.0f}" for counts in zip(*map(_counts, found), strict=True))
    figures = (
        f"the server's count stops at {arrived} tokens, ours goes on to {whole}"
        if all(cut.flat for cut in found)
        else f"the server counts {arrived} tokens of {whole} (medians)"
    )
    those = f"{hints.part(len(found), of, 'pair')} {hints.have(len(found))}"
    return f"{those} a prompt that the server cut: {figures}"


def _counts(cut: Cut) -> tuple[int, int]:
    return cut.arrived, cut.whole


def why_unmeasured(found: Sequence[Cut], of: int, most: float) -> str:
    """Why a cell of so many pairs must not be judged, where more than a share of `most` is cut."""
    if not found or len(found) <= most * of:
        return ""
    return f"{sentence(found, of)}; at most {most:.0%} may be (gate.max_cut)"
