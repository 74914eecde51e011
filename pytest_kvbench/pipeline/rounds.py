"""Which of a group's requests are wanted, where sampling stops as soon as cells are decided.

Between the plan and the pool: what is stored goes in as scores, `analyse.sequential` decides, the
requests of the next round come out. A function of what is stored, so that a run can be resumed and
the analysis at the end finds what the items found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np

from pytest_kvbench.analyse.sequential import (
    Drawn,
    Limits,
    Progress,
    Rung,
    advance,
    drawing_order,
    start,
    whole,
)
from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.observe import Outcomes, Planned, stored_outcomes
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.store.store import Store


@dataclass(frozen=True, eq=False)
class GroupDraw:
    """One cell group that is sampled in rounds.

    Args:
        planned: all requests that it could make, each with its cell.
        order: the group's examples in drawing order.
        clusters: their contexts.
        limits: when to look and when to stop.
        ladder: the cells that are to be decided; others are asked as often as the control.
        share: of the control's score that treatments are compared with, in (0, 1].
    """

    planned: Planned
    order: Sequence[str]
    clusters: np.ndarray
    limits: Limits
    ladder: frozenset[Cell]
    share: float = 1.0

    def progress(self, outcomes: Outcomes) -> Progress:
        """How far the group is with what is stored."""
        bounds = {
            rung: np.array([*self._differences(cell, outcomes)]).reshape(-1, 2)
            for rung, cell in self._cells.items()
        }
        lows, highs = ({rung: of[:, side] for rung, of in bounds.items()} for side in (0, 1))
        begun = start(list(lows), self.clusters, self.limits)
        return advance(begun, Drawn(self.clusters, lows, highs), self.limits)

    def levels(self, outcomes: Outcomes) -> dict[Cell, float]:
        """The two-sided level that each treated cell was last tested at."""
        standing = self.progress(outcomes).cells
        return {cell: standing[rung].alpha for rung, cell in self._cells.items()}

    def wanted(self, progress: Progress) -> Planned:
        """The requests of all rounds up to now, the control's among them."""
        counts = {cell: progress.wanted(rung) for rung, cell in self._cells.items()}
        return self._first(counts, progress.n)

    def ahead(self, progress: Progress) -> Planned:
        """As `wanted`, up to twice what was looked at: for rounds that take a day each."""
        counts = {cell: self._ahead_of(rung, progress) for rung, cell in self._cells.items()}
        return self._first(counts, progress.n)

    def _ahead_of(self, rung: Rung, progress: Progress) -> int:
        standing, wanted = progress.cells[rung], progress.wanted(rung)
        if standing.state != "open" or rung not in progress.tested:
            return wanted
        return max(wanted, whole(self.clusters, 2 * standing.n, self.limits))

    def _first(self, counts: Mapping[Cell, int], without: int) -> Planned:
        """The requests of each cell's first examples; of the control as many as any cell has."""
        place = {example: position for position, example in enumerate(self.order)}
        most = max(counts.values(), default=without)
        return [
            (cell, request)
            for cell, request in self.planned
            if place[request.example_id] < counts.get(cell, most)
        ]

    @cached_property
    def _cells(self) -> dict[Rung, Cell]:
        treated = dict.fromkeys(cell for cell, _ in self.planned if cell in self.ladder)
        return {Rung(cell.policy, cell.budget): cell for cell in treated}

    @cached_property
    def _keys(self) -> dict[tuple[Cell, str], list[tuple[int, str]]]:
        keys: dict[tuple[Cell, str], list[tuple[int, str]]] = {}
        for cell, request in self.planned:
            if not request.is_repeat:
                mine = keys.setdefault((cell, request.example_id), [])
                mine.append((request.replicate, request.key))
        return keys

    def _differences(self, cell: Cell, outcomes: Outcomes) -> Iterator[tuple[float, float]]:
        """Treated minus control, example by example, up to the first that is not settled.

        The least and the most that it can be, which are the same where scores are exact.
        """
        for example in self.order:
            treated = self._scores(cell, example, outcomes)
            control = self._scores(cell.control, example, outcomes)
            if treated is None or control is None:
                return
            pairs = [(treated[r], control[r]) for r in treated.keys() & control.keys()]
            low = [mine[0] - self.share * theirs[1] for mine, theirs in pairs]
            high = [mine[1] - self.share * theirs[0] for mine, theirs in pairs]
            yield (fmean(low), fmean(high)) if pairs else (math.nan, math.nan)

    def _scores(
        self, cell: Cell, example: str, outcomes: Outcomes
    ) -> dict[int, tuple[float, float]] | None:
        """The least and most of scores by replicate, no failures; None while one is outstanding."""
        scores = {}
        for replicate, key in self._keys[cell, example]:
            outcome = outcomes.get(key)
            if outcome is None or not outcome.is_settled:
                return None
            if (high := outcome.high(cell.measure)) is not None and outcome.score is not None:
                scores[replicate] = float(outcome.score), float(high)
        return scores


def group_draws(
    experiment: Experiment, manifests: Mapping[str, TaskManifest], planned: Planned
) -> Iterator[GroupDraw]:
    """The groups of an experiment whose `sampling.strategy` is sequential."""
    grouped: dict[CellGroup, list[tuple[Cell, Request]]] = {}
    ladder = frozenset(cell for cell in plan.cells(experiment) if not cell.is_control)
    for cell, request in planned:
        grouped.setdefault(CellGroup.of(cell), []).append((cell, request))
    for group, members in grouped.items():
        entries = manifests[group.task].of_bin(group.bin)
        contexts = [entry.example.cluster for entry in entries]
        order = drawing_order(contexts)
        codes = np.unique(contexts, return_inverse=True)[1]
        yield GroupDraw(
            members,
            [entries[position].example.example_id for position in order],
            codes[order],
            limits_of(experiment, group.measure),
            ladder,
            experiment.gate_of(group.measure).retain or 1.0,
        )


def limits_of(experiment: Experiment, measure: str) -> Limits:
    """When a group of this experiment stops."""
    gate, bins = experiment.gate_of(measure), experiment.bins
    return Limits(
        margin=gate.loss if gate.retain is None else 0.0,
        alpha=gate.alpha / max(1, plan.treated_cells(experiment, measure)),
        least=bins.least,
        most=max(bins.per_bins),
    )


def drawn(
    experiment: Experiment,
    manifests: Mapping[str, TaskManifest],
    planned: Planned,
    outcomes: Outcomes,
) -> list[tuple[Cell, Request]]:
    """The requests of a plan that are wanted by now; cells not asked are not waited for."""
    asked = {cell for cell, request in planned if request.key in outcomes}
    here = [(cell, request) for cell, request in planned if cell in asked]
    wanted = [
        pair
        for draw in group_draws(experiment, manifests, here)
        for pair in draw.wanted(draw.progress(outcomes))
    ]
    return [*wanted, *first_round(experiment, manifests, planned, asked)]


def first_round(
    experiment: Experiment,
    manifests: Mapping[str, TaskManifest],
    planned: Planned,
    asked: Iterable[Cell],
) -> list[tuple[Cell, Request]]:
    """The requests of a first round of the cells that were not asked yet."""
    done = set(asked)
    left = [(cell, request) for cell, request in planned if cell not in done]
    return [
        (cell, request)
        for draw in group_draws(experiment, manifests, left)
        for cell, request in draw.planned
        if request.example_id in draw.order[: draw.limits.least]
    ]


def levels(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> dict[Cell, float]:
    """The two-sided level at which each treated cell of sequential groups stopped."""
    outcomes = stored_outcomes(prepared, store, planned)
    draws = group_draws(prepared.experiment, prepared.manifests, planned)
    return {cell: level for draw in draws for cell, level in draw.levels(outcomes).items()}
