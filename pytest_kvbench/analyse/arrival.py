"""Whether prompts arrived whole: what a server counted of them, beside what there is to count.

A server with a short context keeps the end of a longer prompt and answers it; nothing but
`usage.prompt_tokens` says so. Free of pandas: whoever measures one cell imports this too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

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


@dataclass(frozen=True)
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


def cuts(sent: Sequence[Sent]) -> list[Cut | None]:
    """Of each prompt, how it was cut; None where it arrived whole, or nobody counted.

    It was, where the server counted fewer tokens than of the same prompt for another arm, far
    fewer than we do, or where its largest count is that of prompts of many lengths.
    """
    most = _largest((one.prompt, one.theirs) for one in sent)
    flat = dict(_flat(sent))
    return [_cut(one, most.get(one.prompt, 0), flat.get(one.arm)) for one in sent]


def _cut(one: Sent, most: int, flat: Cut | None) -> Cut | None:
    if not one.theirs:
        return None
    least = SAME_LEAST if one.serving else OTHER_LEAST
    whole = max(most, one.ours) if one.serving else most
    if one.theirs < SAME_LEAST * whole - SLACK:
        return Cut(one.theirs, whole)
    if one.theirs < least * one.ours - SLACK:
        return Cut(one.theirs, one.ours)
    return flat if flat and one.theirs == flat.arrived else None


def _largest(counts: Iterable[tuple[Hashable, int | None]]) -> dict[Hashable, int]:
    found: dict[Hashable, int] = {}
    for name, count in counts:
        found[name] = max(found.get(name, 0), count or 0)
    return found


def _flat(sent: Sequence[Sent]) -> Iterator[tuple[Hashable, Cut]]:
    """The arms whose counts stop growing, each with where, and our count of the longest prompt."""
    most = _largest((one.arm, one.theirs) for one in sent)
    ours: dict[Hashable, dict[Hashable, int]] = {}
    for one in sent:
        if one.theirs == most[one.arm]:
            ours.setdefault(one.arm, {})[one.prompt] = one.ours
    for arm, prompts in ours.items():
        low, high = min(prompts.values()), max(prompts.values())
        grows = high < max(FLAT_RATIO * low, low + FLAT_TOKENS)
        if len(prompts) >= FLAT_FEWEST and not grows:
            yield arm, Cut(most[arm], high, flat=True)


def sentence(found: Sequence[Cut], of: int) -> str:
    """What is wrong where some of so many pairs' prompts did not arrive whole."""
    arrived, whole = (f"{median(counts):,.0f}" for counts in zip(*map(_counts, found), strict=True))
    figures = (
        f"the server's count stops at {arrived} tokens, ours goes on to {whole}"
        if all(cut.flat for cut in found)
        else f"the server counts {arrived} tokens of {whole} (medians)"
    )
    return f"{len(found)} of {of} pairs have a prompt that the server cut: {figures}"


def _counts(cut: Cut) -> tuple[int, int]:
    return cut.arrived, cut.whole


def why_unmeasured(found: Sequence[Cut], of: int, most: float) -> str:
    """Why a cell of so many pairs must not be judged, where more than a share of `most` is cut."""
    if not found or len(found) <= most * of:
        return ""
    return f"{sentence(found, of)}; at most {most:.0%} may be (gate.max_cut)"
