"""A run with `engine.mode: batch`: fetches what is done, hands over what is missing, ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from pytest_kvbench import hints
from pytest_kvbench.batch.desk import desk
from pytest_kvbench.batch.ledger import Ledger, waiting_for
from pytest_kvbench.errors import EngineError, KvbenchError
from pytest_kvbench.pipeline.driver import GroupDriver
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.records import Cell
from pytest_kvbench.store.keys import Keys
from pytest_kvbench.store.store import Store


class Batched:
    """Asks in batches: see `pipeline.ask.Asking`. All that was selected is handed over together.

    Args:
        prepared: the group.
        store: its store.
        controls: where controls are shared (None: inside the group).
        run_id: the run's, whose processes fetch and hand over once.
        cells: those that were selected.
    """

    def __init__(
        self,
        prepared: Prepared,
        store: Store,
        controls: Path | None,
        run_id: str,
        cells: Sequence[Cell],
    ) -> None:
        self._prepared = prepared
        self._store = store
        self._controls = controls
        self._run_id = run_id
        self._cells = cells
        self._problem: KvbenchError | None = None
        self._open = contextlib.ExitStack()

    def unsettled(
        self,
        driver: GroupDriver,
        ahead: Iterable[GroupDriver] = (),  # noqa: ARG002 -- all that was selected
    ) -> str:
        """Why a group is not settled: `waiting for batch ID (n of m done)`; "" where it is.

        Raises:
            EngineError: some of it is in no batch any more, and has no answer.
            KvbenchError: see `Desk.fetch` and `Desk.submit`; the first one, for every group.
        """
        waiting = self._waiting
        wanted = [request.key for request in driver.wanted(self._store)]
        return waiting.reason(self._store, wanted)

    def close(self) -> None:
        """See `Asking.close`. Batches that are open stay so."""
        self._open.close()

    @property
    def _waiting(self) -> Waiting:
        """What the run waits for: a server that is down is not tried for every item."""
        if self._problem is not None:
            raise self._problem
        try:
            return self._synced
        except KvbenchError as error:
            self._problem = error
            raise

    @cached_property
    def _synced(self) -> Waiting:
        self._prepared.requests(self._cells)  # kept: the items need them too
        waiting = sync(self._prepared, self._controls, self._run_id, self._cells)
        self._open.callback(waiting.close)
        return waiting


class Waiting:
    """What a run still waits for."""

    def __init__(self, ledger: Ledger, keys: Keys) -> None:
        self._ledger = ledger
        self._keys = keys

    def reason(self, store: Store, keys: Sequence[str]) -> str:
        """Why some requests are not settled: `waiting for batch ID (n of m done)`; "" if they are.

        Raises:
            EngineError: some are in no batch any more, and have no answer.
        """
        answered = store.answered(keys)
        left = [key for key in keys if key not in answered]
        batches = self._keys.batches(left)
        if batches:
            ids = dict.fromkeys(batches[key] for key in left if key in batches)
            return waiting_for(self._ledger.by_id(batch_id) for batch_id in ids)
        lost = len(set(left) - store.settled(left))
        if lost:
            raise EngineError(
                f"{hints.count(lost, 'request')} {hints.are(lost)} in no batch and "
                f"{hints.have(lost)} no answer",
                "another process has fetched, cancelled or forgotten it; run again",
            )
        return ""

    def close(self) -> None:
        """Forget the keys."""
        self._keys.close()


def sync(prepared: Prepared, controls: Path | None, run_id: str, cells: Sequence[Cell]) -> Waiting:
    """Fetch, then submit what some cells lack; the other processes of the run find it done.

    Args:
        prepared: the group.
        controls: where controls are shared (None: inside the group).
        run_id: the run's.
        cells: those that were selected.

    Raises:
        KvbenchError: see `Desk.fetch` and `Desk.submit`.
    """
    with desk(prepared, controls) as open_desk, contextlib.ExitStack() as undo:
        if open_desk.ledger.synced != run_id:
            open_desk.fetch()
            open_desk.submit(cells)
            open_desk.ledger.mark(run_id)
        keys = open_desk.open_keys()
        undo.callback(keys.close)
        waiting = Waiting(open_desk.ledger, keys)
        undo.pop_all()
        return waiting
