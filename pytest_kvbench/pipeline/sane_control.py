"""Whether a control is worth comparing with, before money is spent on its treatments.

A full cache that answers nothing, refuses, or does no better than guessing has nothing to lose:
whatever the treatments do, no verdict can follow. Between the plan and the pool, like `sampling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_kvbench.experiment.schema import Gate
from pytest_kvbench.pipeline import sane_control
from pytest_kvbench.records import (
    Cell,
    Example,
    Label,
    Request,
)
from pytest_kvbench.score.metric import get_metric
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    pass
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.score import score

PROBE = 8
"""Examples asked first where the control and its treatments come from one prefill."""


@dataclass(frozen=True)
class Reply:
    """What a control made of one example; `chance` is the score of guessing."""

    score: float
    label: Label
    chance: float

    @property
    def is_sick(self) -> bool:
        """Empty, refused, or cut off before anything could be scored."""
        cut = self.label == "TRUNCATED" and self.score == 0
        return cut or self.label in ("EMPTY_OUTPUT", "REFUSAL")


def asked_first(
    planned: Sequence[tuple[Cell, Request]], *, shares_prefill: bool
) -> list[tuple[Cell, Request]]:
    """What of a group is to be answered before the rest: its controls.

    Where all arms come from one prefill, a control alone would cost nearly what its whole sweep
    does: there the first few examples go ahead, with all their arms.
    """
    if not shares_prefill:
        return [(cell, request) for cell, request in planned if cell.is_control]
    examples = list(dict.fromkeys(request.example_id for _, request in planned))[:PROBE]
    return [(cell, request) for cell, request in planned if request.example_id in examples]


def replies(
    planned: Sequence[tuple[Cell, Request]],
    outcomes: Mapping[str, Mapping[str, Any]],
    examples: Mapping[str, Example],
    metric: str,
) -> list[Reply]:
    """The control's scored replies; failures are no replies."""
    chance = get_metric(metric).chance
    return [
        Reply(outcome["score"], outcome["label"], chance(examples[request.example_id].meta))
        for cell, request in planned
        if cell.is_control
        and not request.aa
        and (outcome := outcomes.get(request.key)) is not None
        and outcome["score"] is not None
    ]


def problem(seen: Sequence[Reply], gate: Gate, *, shortest: bool, whole: bool) -> str:
    """What is wrong with a control, in words; empty where it has something to lose.

    Args:
        seen: its replies so far.
        gate: the thresholds.
        shortest: whether it is that of the shortest prompts. On longer ones a full cache may well
            fail: that is a result.
        whole: whether there are no more examples. A few may all be wrong by bad luck.
    """
    if not seen:
        return ""
    sick = [reply.label for reply in seen if reply.is_sick]
    if len(sick) / len(seen) > gate.max_sick:
        kinds = ", ".join(f"{sick.count(kind)} {kind}" for kind in dict.fromkeys(sick))
        return (
            f"{len(sick)} of {len(seen)} replies of the full cache are useless ({kinds}), more "
            f"than gate.max_sick={gate.max_sick:g} may be"
        )
    mean = sum(reply.score for reply in seen) / len(seen)
    chance = sum(reply.chance for reply in seen) / len(seen)
    floor = chance if gate.control_floor is None else gate.control_floor
    if shortest and mean <= floor and (whole or len(seen) >= PROBE):
        known = f"chance, {chance:.2g}" if gate.control_floor is None and chance else f"{floor:g}"
        return (
            f"the full cache scores {mean:.3f} on the shortest prompts, not above "
            f"gate.control_floor ({known}): there is nothing to lose"
        )
    return ""


def sickness(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]], whole: bool = False
) -> str:
    """What is wrong with the control of one group, by the replies that are there; "" if nothing.

    Where not all are asked that will be (`whole`), a low mean of few is not held against it.
    """
    controls = [(cell, r) for cell, r in planned if cell.is_control and not r.aa]
    keys = [request.key for _, request in controls]
    score(store, keys)
    outcomes = store.outcomes(keys)
    task, index = controls[0][0].task, controls[0][0].bin
    manifest = prepared.manifests[task]
    examples = {e.example.example_id: e.example for e in manifest.of_bin(index)}
    return sane_control.problem(
        sane_control.replies(controls, outcomes, examples, manifest.metric),
        prepared.experiment.gate,
        shortest=index == 0,
        whole=whole or len(outcomes) == len(controls),
    )
