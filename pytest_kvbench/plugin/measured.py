"""An experiment of this session while it is measured: its pool, its store, what was started."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_kvbench.pipeline import plan, rounds
from pytest_kvbench.pipeline.ask import work_of
from pytest_kvbench.pipeline.driver import sickness
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.pool import Pool, Tally
from pytest_kvbench.pipeline.rounds import drawn_so_far
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    from pytest_kvbench.batch.session import Waiting


@dataclass
class MeasuredExperiment:
    """One experiment of this session, prepared, with its pool and what was started."""

    key: str
    prepared: Prepared
    pool: Pool
    store: Store
    cells: frozenset[Cell]
    selected: dict[plan.CellGroup, tuple[Cell, ...]]
    waiting: Waiting | None = None
    """Where answers come in batches; None: the pool asks for them."""
    started: dict[plan.CellGroup, concurrent.futures.Future[Tally]] = field(default_factory=dict)
    requests: dict[plan.CellGroup, list[tuple[Cell, Request]]] = field(default_factory=dict)
    levels: dict[plan.CellGroup, Mapping[Cell, float]] = field(default_factory=dict)
    sick: dict[plan.CellGroup, str] = field(default_factory=dict)

    def start(self, group: plan.CellGroup) -> concurrent.futures.Future[Tally]:
        """Hand a group to the pool, once."""
        if group not in self.started:
            self.requests[group] = self.prepared.requests(self.selected[group])
            work = work_of(self.prepared, group, self.requests[group])
            self.started[group] = self.pool.submit(work)
        return self.started[group]

    def waits(self, group: plan.CellGroup) -> str:
        """Which batch a group waits for, in words; "" where it is complete."""
        if self.waiting is None:
            return ""
        if group not in self.requests:
            self.requests[group] = self.prepared.requests(self.selected[group])
        keys = [request.key for _, request in self.requests[group]]
        return self.waiting.reason(self.store, keys)

    def settle(self, group: plan.CellGroup) -> None:
        """The group is done: score it, and keep of its requests those that were wanted."""
        requests = self.requests[group]
        score(self.store, [request.key for _, request in requests])
        if self.prepared.experiment.sequential and group not in self.levels:
            self.levels[group] = rounds.levels(self.prepared, self.store, requests)
            self.requests[group] = list(drawn_so_far(self.prepared, self.store, requests))

    def sickness(self, group: plan.CellGroup) -> str:
        """What is wrong with the control of a settled group; "" if nothing."""
        if group not in self.sick:
            requests = self.requests[group]
            self.sick[group] = sickness(self.prepared, self.store, requests, whole=True)
        return self.sick[group]

    @cached_property
    def clusters(self) -> dict[str, str]:
        """Cluster by example."""
        return {
            entry.example.example_id: entry.example.cluster
            for manifest in self.prepared.manifests.values()
            for entry in manifest.entries
        }

    def close(self) -> None:
        """Stop what runs ahead."""
        if self.waiting is not None:
            self.waiting.close()
        self.pool.close()
        self.store.close()
