"""Outcomes on their way into the database: what comes within a few milliseconds goes in together.

A transaction for each would cost as much as asking. Nobody is told of an outcome before it is
durable; a killed run asks again at most what was in flight or had come in that time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_kvbench.records import Answer, Failure
from pytest_kvbench.store.store import Store

_TOGETHER_S = 0.002


@dataclass
class _Batch:
    """Outcomes that go in together, and what tells that they are in."""

    stored: asyncio.Future[Sequence[Answer]]
    answers: list[Answer] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Landing:
    """Stores outcomes for one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._batch: _Batch | None = None

    async def land(self, outcomes: Sequence[Answer | Failure]) -> Sequence[Answer]:
        """Store outcomes, all or none; the answers among them as they are kept.

        Raises:
            StoreError: they cannot be written.
        """
        if self._batch is None:
            loop = asyncio.get_running_loop()
            self._batch = _Batch(loop.create_future())
            loop.call_later(_TOGETHER_S, self.flush)
        batch, first = self._batch, len(self._batch.answers)
        batch.answers += (one for one in outcomes if isinstance(one, Answer))
        batch.failures += (one for one in outcomes if isinstance(one, Failure))
        last = len(batch.answers)
        return (await asyncio.shield(batch.stored))[first:last]

    def flush(self) -> None:
        """Store at once what waits. Errors are raised where it was handed over."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        try:
            kept = self._store.save_answers(batch.answers) if batch.answers else ()
            if batch.failures:
                self._store.save_failures(batch.failures)
        except Exception as error:
            batch.stored.set_exception(error)
        else:
            batch.stored.set_result(kept)
