"""What speaks against an arm, whatever it scores: one rule for `best` and for posteriors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pytest_kvbench.records import UNVERIFIED

PLACEBO = "placebo?"
NOT_MEASURED = "not measured"
TOO_LOW = "control too low"
"""The control scores no more than the margin: no loss of it can be."""
LEFT_OUT = (PLACEBO, NOT_MEASURED, TOO_LOW)
"""Arms of which nothing is concluded."""
LACKS_BINS = "lacks bins"


class Told(NamedTuple):
    """What a group found of one cell of an arm; `flags` begin with their code."""

    is_measured: bool
    proof: str
    flags: Sequence[str]


def doubt_of(cells: Iterable[Told]) -> str:
    """The doubts of an arm by all its cells, whatever their groups; empty where there is none."""
    every = list(cells)
    measured = [cell for cell in every if cell.is_measured]
    if not measured:
        return NOT_MEASURED
    placebo = any(flag.startswith("placebo:") for cell in measured for flag in cell.flags)
    unproven = any(cell.proof == UNVERIFIED for cell in measured)
    doubts = [PLACEBO if placebo else UNVERIFIED if unproven else ""]
    doubts += [LACKS_BINS] if len(measured) < len(every) else []
    return ", ".join(filter(None, doubts))


def why_left_out(doubt: str) -> str:
    """The reason for which an arm with such doubts is left out; empty where it is not."""
    return next((reason for reason in LEFT_OUT if reason in doubt), "")


def notes(arms: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A sentence a reason with the arms that it leaves out, of arms and their doubts."""
    reasons = [(why_left_out(doubt), arm) for arm, doubt in arms]
    for reason in LEFT_OUT:
        named = dict.fromkeys(arm for why, arm in reasons if why == reason)
        if named:
            yield f"left out, {reason}: {', '.join(named)}"
