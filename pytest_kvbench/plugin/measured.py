"""An experiment of this session while it is measured: its driver, its store, and what it drew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.errors import ControlError
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline.ask import Asking
from pytest_kvbench.pipeline.drawn import drawn_so_far
from pytest_kvbench.pipeline.driver import GroupDriver, sickness
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import Judge
from pytest_kvbench.pipeline.observe import Planned, observations, voted
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Cell
from pytest_kvbench.rows import Certificate
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    from pytest_kvbench.plugin.verdict import MeasuredCell


@dataclass
class MeasuredExperiment:
    """One experiment of this session, prepared, and the groups of it that are settled.

    `drivers` are those of what was selected; `drawn` are the requests that its settled groups came
    to, of all that each had planned, `sick` what is wrong with their controls, and `problems` the
    error of treatments that nothing can be compared with. `controls` are those that were read.
    """

    key: str
    prepared: Prepared
    asking: Asking
    store: Store
    cells: frozenset[Cell]
    drivers: Mapping[CellGroup, GroupDriver]
    drawn: dict[CellGroup, Planned] = field(default_factory=dict)
    levels: dict[CellGroup, Mapping[Cell, float]] = field(default_factory=dict)
    sick: dict[CellGroup, str] = field(default_factory=dict)
    problems: dict[CellGroup, ControlError | None] = field(default_factory=dict)
    controls: dict[Cell, MeasuredCell] = field(default_factory=dict)
    _judged: dict[CellGroup, Observations] = field(default_factory=dict)
    _certified: Mapping[CellKey, Certificate] | None = None

    def settle(self, group: CellGroup, ahead: Iterable[GroupDriver] = ()) -> str:
        """Have a group asked and scored; returns why it is not settled yet, "" where it is.

        Raises:
            KvbenchError: see `Asking.unsettled`.
        """
        if group in self.drawn:
            return ""
        if reason := self.asking.unsettled(self.drivers[group], ahead):
            return reason
        self._look_at(group)
        return ""

    def _look_at(self, group: CellGroup) -> None:
        planned = self.drivers[group].planned
        score(self.store, planned.keys, self.prepared.experiment)
        if self.prepared.experiment.sequential:
            from pytest_kvbench.pipeline.rounds import levels  # late: numpy and scipy

            self.levels[group] = levels(self.prepared, self.store, planned)
        observed = observations(self.prepared, self.store, planned)
        self.sick[group] = sickness(self.prepared, observed, whole=True)
        self.problems[group] = self.drivers[group].error_of(observed, whole=True)
        self._judged = {group: votes(observed, self.prepared.experiment, self.prepared.manifests)}
        self.drawn[group] = drawn_so_far(self.prepared, self.store, planned)

    def observed(self, cell: Cell) -> Observations:
        """What is judged of a cell, A/A runs apart, as far as it was drawn."""
        group = CellGroup.of(cell)
        drawn = {r.key for c, r in self.drawn[group] if c == cell and not r.is_repeat}
        return self._of(group).where(
            lambda one: one.cell == cell and not one.aa and drawn.issuperset(one.keys)
        )

    def _of(self, group: CellGroup) -> Observations:
        """Those of a whole group; of the one that is looked at last they are here."""
        if group not in self._judged:
            planned = self.drivers[group].planned
            self._judged = {group: voted(self.prepared, self.store, planned)}
        return self._judged[group]

    def certificates(self, judge_with: Judge) -> Mapping[CellKey, Certificate]:
        """What is certified of every arm, by what is stored; judged once."""
        if self._certified is None:
            from pytest_kvbench.ops.dry_run import dry_run  # late: no other run needs it

            gate = self.prepared.experiment.gate
            rows = dry_run(self.prepared, gate, judge_with=judge_with).get("certificates", [])
            self._certified = {CellKey.of_row(row): row for row in rows}
        return self._certified

    @cached_property
    def clusters(self) -> dict[str, str]:
        """The cluster of each example, by its id."""
        return {
            entry.example.example_id: entry.example.cluster
            for manifest in self.prepared.manifests.values()
            for entry in manifest.entries
        }

    def close(self) -> None:
        """Stop what runs ahead."""
        self.asking.close()
        self.store.close()
