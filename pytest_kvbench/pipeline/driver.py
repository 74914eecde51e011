"""What a group asks next, however one asks: live, through Parsl or in batches.

A function of what is stored: who asks hands over the requests that it names, and comes
back once they are settled, at once or in a later run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.engines.kinds import arms_per_request
from pytest_kvbench.errors import ControlError, CutError
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline import plan, sane_control
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.observe import (
    Outcomes,
    Planned,
    cut_controls,
    observations,
    stored_outcomes,
)
from pytest_kvbench.pipeline.planned import Plan
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.rounds import GroupDraw


@dataclass(frozen=True)
class GroupDriver:
    """Says what one cell group asks, and when.

    Args:
        prepared: the experiment's group.
        group: the cell group.
        cells: those of its cells that are to be measured.
    """

    prepared: Prepared
    group: CellGroup
    cells: tuple[Cell, ...]

    @cached_property
    def planned(self) -> Plan:
        """All requests that it could make, each with its cell."""
        return self.prepared.requests(self.cells)

    @cached_property
    def controls(self) -> Plan:
        """The requests of its control alone, A/A runs included, each with its cell."""
        return Plan(self.prepared.each_request([self._control]))

    def next(self, store: Store) -> list[Request]:
        """The requests to be settled next: first what shows whether the control is sane.

        Raises:
            ControlError: the control is not sane, and treatments would still have to be asked.
        """
        drawn = self._drawn(store)
        shared = arms_per_request(self.prepared.experiment.engine) > 1
        first = sane_control.asked_first(drawn, shares_prefill=shared)
        settled = store.settled([request.key for _, request in drawn])
        if any(request.key not in settled for _, request in first):
            return [request for _, request in first]
        if len(settled) < len(drawn) and (error := self.control_error(store)):
            raise error
        return [request for _, request in drawn]

    def wanted(self, store: Store) -> list[Request]:
        """The requests that are to be settled by now, the rounds before included.

        Treatments of a control that is not sane are not among them.
        """
        return [request for _, request in self._of_the_sane(store, self._drawn(store))]

    def ahead(self, store: Store) -> Iterator[Request]:
        """As `wanted`, for batches, which may take a day: nothing waits for the control's sample.

        Sampling in rounds goes on to twice what was looked at.
        """
        every = self._ahead(store) if self._draws else self.prepared.each_request(self.cells)
        yield from (request for _, request in self._of_the_sane(store, every))

    def control_error(self, store: Store) -> ControlError | None:
        """The error of a control that nothing can be compared with, by the replies so far.

        Until all of its requests are settled, a low mean is not held against it.
        """
        keys = [request.key for _, request in self.controls if not request.is_repeat]
        if not (settled := store.settled(keys)):
            return None
        score(store, keys, self.prepared.experiment)
        observed = observations(self.prepared, store, self.controls)
        return self.error_of(observed, whole=len(settled) == len(keys))

    def error_of(self, observed: Observations, *, whole: bool) -> ControlError | None:
        """As `control_error`, by scored observations of the group; those of treatments say nothing.

        `whole`: no more will come.
        """
        if wrong := sickness(self.prepared, observed, whole=whole):
            return ControlError(f"{self._control.item_id}: {wrong}", self._not_asked)
        for wrong in cut_controls(self.prepared, self.controls, observed).values():
            return CutError(f"{self._control.item_id}: {wrong}", self._not_asked)
        return None

    @property
    def _not_asked(self) -> str:
        return (
            "its treatments do not count, and are asked no more; see its prompts: "
            f"kvbench inspect {self.group.task}"
        )

    def _drawn(self, store: Store) -> Planned:
        """What sampling came to, settled or not: everything, or the rounds so far."""
        if not self._draws:
            return self.planned
        outcomes = self._outcomes(store)
        rounds = (draw.wanted(draw.progress(outcomes)) for draw in self._draws)
        return list(chain.from_iterable(rounds))

    def _ahead(self, store: Store) -> Planned:
        outcomes = self._outcomes(store)
        rounds = (draw.ahead(draw.progress(outcomes)) for draw in self._draws)
        return list(chain.from_iterable(rounds))

    def _outcomes(self, store: Store) -> Outcomes:
        score(store, self.planned.keys, self.prepared.experiment)
        return stored_outcomes(self.prepared, store, self.planned)

    def _of_the_sane(
        self, store: Store, pairs: Iterable[tuple[Cell, Request]]
    ) -> Iterator[tuple[Cell, Request]]:
        is_sick = self.control_error(store) is not None
        return ((cell, r) for cell, r in pairs if cell.is_control or not is_sick)

    @property
    def _control(self) -> Cell:
        return self.cells[0].control

    @cached_property
    def _draws(self) -> tuple[GroupDraw, ...]:
        """How it is sampled in rounds; nothing where all is asked."""
        experiment = self.prepared.experiment
        if not experiment.sequential:
            return ()
        from pytest_kvbench.pipeline.rounds import group_draws  # late: numpy and scipy

        return tuple(group_draws(experiment, self.prepared.manifests, self.planned))


def drivers(prepared: Prepared, cells: Sequence[Cell] | None = None) -> Iterator[GroupDriver]:
    """A driver for each group of some cells, by default of the whole plan."""
    some = plan.cells(prepared.experiment) if cells is None else cells
    for group, members in plan.groups(some).items():
        yield GroupDriver(prepared, group, members)


def sickness(prepared: Prepared, observed: Observations, *, whole: bool) -> str:
    """What is wrong with a group's control, by scored observations, in words; "" if nothing is.

    `whole`: no more will come; else a low mean is not held against it.
    """
    controls = observed.where(lambda one: one.cell.is_control and not one.aa)
    if not controls:
        return ""
    return sane_control.problem(
        sane_control.replies(votes(controls, prepared.experiment, prepared.manifests)),
        prepared.experiment.gate,
        shortest=controls.column("cell")[0].bin == 0,
        whole=whole,
    )


def sick_controls(prepared: Prepared, store: Store) -> Iterator[ControlError]:
    """An error for each group of the plan whose control is not sane, by the replies so far."""
    for driver in drivers(prepared):
        if error := driver.control_error(store):
            yield error
