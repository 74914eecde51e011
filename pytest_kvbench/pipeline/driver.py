"""What holds however one asks, live, through Parsl or in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_kvbench.errors import ControlError
from pytest_kvbench.pipeline import plan, sane_control
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.observe import voted
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.store import Store

Planned = Sequence[tuple[Cell, Request]]


def sickness(prepared: Prepared, store: Store, planned: Planned, whole: bool = False) -> str:
    """What is wrong with the control of one group, by the replies that are there; "" if nothing.

    Where not all are asked that will be (`whole`), a low mean of few is not held against it.
    """
    controls = [(cell, r) for cell, r in planned if cell.is_control and not r.aa]
    if not controls:
        return ""
    keys = [request.key for _, request in controls]
    score(store, keys)
    return sane_control.problem(
        sane_control.replies(voted(prepared, store, controls)),
        prepared.experiment.gate,
        shortest=controls[0][0].bin == 0,
        whole=whole or len(store.settled(keys)) == len(keys),
    )


def sick_controls(prepared: Prepared, store: Store) -> Iterator[ControlError]:
    """An error for each group of the plan whose control is not sane, by the replies so far."""
    for group, members in plan.groups(plan.cells(prepared.experiment)).items():
        control = members[0].control
        if wrong := sickness(prepared, store, prepared.requests([control])):
            yield sick_error(group, control, wrong)


def sick_error(group: plan.CellGroup, control: Cell, wrong: str) -> ControlError:
    """The error of a group whose control is not sane, for the reason `wrong`."""
    return ControlError(
        f"{control.item_id}: {wrong}",
        f"its treatments are not asked and do not count; see its prompts: "
        f"kvbench inspect {group.task}",
    )
