"""The ways of asking, and the live one: a pool in front of an engine or of Parsl's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.engines import Engine
from pytest_kvbench.errors import ControlError
from pytest_kvbench.pipeline.driver import GroupDriver, drivers
from pytest_kvbench.pipeline.group import Prepared, Site, controls_root, source_of
from pytest_kvbench.pipeline.pool import Pool, Tally, Work, first_cause
from pytest_kvbench.records import Cell
from pytest_kvbench.store.controls import SharedControls


def make_pool(
    prepared: Prepared,
    site: Site,
    on_answers: Callable[[int], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> Pool:
    """A pool that answers this group's requests; no server starts before one is needed.

    `on_start` is called before the first request, if any is missing.
    """

    def start() -> Engine:
        on_start()
        if prepared.executor.name == "local":
            return source_of(prepared.experiment, site).start()
        from pytest_kvbench.executors.engine import parsl_engine

        return parsl_engine(
            prepared.executor,
            prepared.experiment.engine,
            prepared.experiment.served_kv,
            fingerprint=prepared.fingerprint,
            run_id=site.run_id,
            folder=prepared.folder,
        )

    return Pool(
        prepared.database,
        start,
        SharedControls(controls_root(prepared.experiment, site, prepared.folder)),
        takes_over=not prepared.asks_again,
        on_answers=on_answers,
        sent=prepared.sent,
        ends_at=site.ends_at,
    )


class Asking(Protocol):
    """A way of asking: at once or in batches. What is asked, and when, the driver alone says."""

    def unsettled(self, driver: GroupDriver, ahead: Iterable[GroupDriver] = ()) -> str:
        """Why a group is not settled yet, in words; "" where it is, or its control is not sane.

        Args:
            driver: the group's.
            ahead: of groups that may be asked meanwhile.

        Raises:
            KvbenchError: it will not be settled in this run.
        """

    def close(self) -> None:
        """Stop asking; what was answered is stored."""


class Live:
    """Asks at once, through a pool, and waits for the answers.

    Args:
        pool: of the experiment's engine, or of Parsl's workers.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._begun: dict[CellGroup, Future[Tally]] = {}

    def begin(self, driver: GroupDriver) -> None:
        """Hand a group to the pool, once."""
        if driver.group not in self._begun:
            work = Work(driver.group.control_id, driver.planned.requests, driver.next)
            self._begun[driver.group] = self._pool.submit(work)

    def end(self, driver: GroupDriver) -> Tally | ControlError:
        """Wait for what becomes of a group; what stops every group is raised."""
        try:
            return self._begun[driver.group].result()
        except Exception as error:
            cause = first_cause(error)
            if isinstance(cause, ControlError):
                return cause
            raise cause from None

    def unsettled(self, driver: GroupDriver, ahead: Iterable[GroupDriver] = ()) -> str:
        """See `Asking.unsettled`."""
        for one in (driver, *ahead):
            self.begin(one)
        self.end(driver)
        return ""

    def close(self) -> None:
        """See `Asking.close`."""
        self._pool.close()


@dataclass(frozen=True)
class Ran:
    """The tally of a run, and the errors of the groups whose control is not sane."""

    tally: Tally
    sick: tuple[ControlError, ...]


def run(
    prepared: Prepared,
    site: Site,
    on_answers: Callable[[int], None],
    cells: Sequence[Cell] | None = None,
) -> Ran:
    """Answer everything that some cells lack, by default all of the plan; waits for it.

    Group after group; a control that is not sane stops its own group alone.

    Raises:
        EngineError: the engine could not be started, or is gone; what was answered is stored.
    """
    live, every = Live(make_pool(prepared, site, on_answers)), list(drivers(prepared, cells))
    try:
        for driver in every:
            live.begin(driver)
        ends = [live.end(driver) for driver in every]
    finally:
        live.close()
    return Ran(
        sum((end for end in ends if isinstance(end, Tally)), Tally()),
        tuple(end for end in ends if isinstance(end, ControlError)),
    )
