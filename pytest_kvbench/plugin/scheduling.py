"""Keeps the cells of a group on one xdist worker, by the scope in their ids (see `scope`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScheduling, LoadScopeScheduling, Scheduling
from xdist.workermanage import WorkerController

from pytest_kvbench.plugin.scope import scope_of, unit_of


class _ByGroup(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """One unit of work per cell group; a foreign test is a unit of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid) or nodeid

    def schedule(self) -> None:
        """As xdist, but a replacement, too, hears at once what follows its first unit.

        A worker runs a test only when it knows the next one, or that there is none.
        """
        replaced = self.collection is not None
        super().schedule()
        for node in self.nodes if replaced else ():
            self._reschedule(node)

    def _reschedule(self, node: WorkerController) -> None:
        if node in self.registered_collections:  # a replacement may still be collecting
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """As xdist, but only what is left goes to others.

        xdist hands on units that are done, which leave a replacement waiting for ever, and the
        test that crashed the worker, which would crash the next one; and it counts a worker that
        died between its collection and the others' as one that collected, and gives work to a
        replacement that has not.
        """
        if self.collection is None:
            self.registered_collections.pop(node, None)
        units = self.assigned_work[node]
        under_way = (t for unit in units.values() for t, done in unit.items() if not done)
        crashed: str | None = next(under_way, None)
        if crashed is not None:
            units[self._split_scope(crashed)][crashed] = True
        self.assigned_work[node] = {s: u for s, u in units.items() if not all(u.values())}
        super().remove_node(node)
        return crashed


class ByContentScheduling:
    """xdist's own load scheduling, unless a worker collected kvbench items.

    Which it is cannot be known before the first collection arrives; until then nodes wait here.
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        self._config = config
        self._log = log
        self._waiting: list[WorkerController] = []
        self._chosen: Scheduling | None = None

    @property
    def nodes(self) -> list[WorkerController]:
        """See `Scheduling`."""
        return self._chosen.nodes if self._chosen else self._waiting

    @property
    def collection_is_completed(self) -> bool:
        """See `Scheduling`."""
        return self._chosen is not None and self._chosen.collection_is_completed

    @property
    def tests_finished(self) -> bool:
        """See `Scheduling`."""
        return self._chosen is not None and self._chosen.tests_finished

    @property
    def has_pending(self) -> bool:
        """See `Scheduling`."""
        return self._chosen is not None and self._chosen.has_pending

    def add_node(self, node: WorkerController) -> None:
        """See `Scheduling`."""
        if self._chosen is None:
            self._waiting.append(node)
        else:
            self._chosen.add_node(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """See `Scheduling`; the first collection decides."""
        if self._chosen is None:
            ours = any(map(scope_of, collection))
            kind = _ByGroup if ours else LoadScheduling
            self._chosen = kind(self._config, self._log)
            for waiting in self._waiting:
                self._chosen.add_node(waiting)
        self._chosen.add_node_collection(node, collection)

    def remove_node(self, node: WorkerController) -> str | None:
        """See `Scheduling`.

        Raises:
            KeyError: it died before it was added, as xdist's own schedulers say it.
        """
        if self._chosen is not None:
            crashed: str | None = self._chosen.remove_node(node)
            return crashed
        if node not in self._waiting:
            raise KeyError(node)
        self._waiting.remove(node)
        return None

    def __getattr__(self, name: str) -> Any:
        # The rest (mark_test_complete, schedule, ...) is only called after a collection.
        if self._chosen is None:
            raise AttributeError(name)
        return getattr(self._chosen, name)
