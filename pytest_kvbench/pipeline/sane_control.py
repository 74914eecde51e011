"""Whether a control is worth comparing with.

A full cache that answers nothing, refuses, or does no better than guessing has nothing to lose:
whatever the treatments do, no verdict can follow. The driver asks before money is spent on them,
the judge before they count. Pure: observations in, a sentence out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.observation import Observation
from pytest_kvbench.records import Cell, Label, Request

SILENT: tuple[Label, ...] = ("EMPTY_OUTPUT", "REFUSAL")
"""The labels of replies that say nothing."""

PROBE = 8
"""Examples asked first where the control and its treatments come from one prefill."""


@dataclass(frozen=True)
class Reply:
    """A control's reply to one example, scored; `chance` is the score of guessing."""

    score: float
    label: Label
    chance: float

    @property
    def is_sick(self) -> bool:
        """Whether it is empty, refused, or cut off before anything could be scored."""
        cut = self.label == "TRUNCATED" and self.score == 0
        return cut or self.label in SILENT


def asked_first(
    planned: Sequence[tuple[Cell, Request]], *, shares_prefill: bool
) -> list[tuple[Cell, Request]]:
    """The requests of a group that are asked before the rest: its controls.

    Where all arms come from one prefill, a control alone would cost nearly what its whole sweep
    does: there the first few examples go ahead, with all their arms.
    """
    if not shares_prefill:
        return [(cell, request) for cell, request in planned if cell.is_control]
    examples = list(dict.fromkeys(request.example_id for _, request in planned))[:PROBE]
    return [(cell, request) for cell, request in planned if request.example_id in examples]


def replies(observed: Iterable[Observation]) -> list[Reply]:
    """The replies of the control among observations; failures are no replies."""
    return [
        Reply(one.outcome.score, one.outcome.label, one.chance)
        for one in observed
        if one.cell.is_control and not one.aa and one.outcome.score is not None
    ]


def sick_controls(gate: Gate, observed: Iterable[Observation]) -> dict[CellGroup, str]:
    """What is wrong with each control among observations that has nothing to lose, in words."""
    controls: dict[CellGroup, list[Observation]] = {}
    for one in observed:
        if one.cell.is_control:
            controls.setdefault(CellGroup.of(one.cell), []).append(one)
    found = {
        group: problem(replies(observed_of), gate, shortest=group.bin == 0, whole=True)
        for group, observed_of in controls.items()
    }
    return {group: wrong for group, wrong in found.items() if wrong}


def problem(given: Sequence[Reply], gate: Gate, *, shortest: bool, whole: bool) -> str:
    """What is wrong with a control, in words; empty where it has something to lose.

    Args:
        given: its replies so far.
        gate: the thresholds.
        shortest: whether it is that of the shortest prompts. On longer ones a full cache may well
            fail: that is a result.
        whole: whether there are no more examples. A few may all be wrong by bad luck.
    """
    if not given:
        return ""
    sick = [reply.label for reply in given if reply.is_sick]
    if len(sick) / len(given) > gate.max_sick:
        kinds = ", ".join(f"{sick.count(kind)} {kind}" for kind in dict.fromkeys(sick))
        return (
            f"{len(sick)} of {len(given)} replies of the full cache are useless ({kinds}), more "
            f"than gate.max_sick={gate.max_sick:g} may be"
        )
    mean = sum(reply.score for reply in given) / len(given)
    chance = sum(reply.chance for reply in given) / len(given)
    floor = chance if gate.control_floor is None else gate.control_floor
    if shortest and mean <= floor and (whole or len(given) >= PROBE):
        bound = f"chance, {chance:.2g}" if gate.control_floor is None and chance else f"{floor:g}"
        return (
            f"the full cache scores {mean:.3f} on the shortest prompts, not above "
            f"gate.control_floor ({bound}): there is nothing to lose"
        )
    return ""
