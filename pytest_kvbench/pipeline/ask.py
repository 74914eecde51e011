"""What a group asks of its engine, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvbench.engines import Engine
from pytest_kvbench.errors import ControlError
from pytest_kvbench.pipeline import driver, plan, sane_control
from pytest_kvbench.pipeline.pool import Pool, Tally, Work, first_cause
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    pass
from pytest_kvbench.pipeline.group import Prepared, Site, controls_root, source_of
from pytest_kvbench.pipeline.rounds import stored_outcomes
from pytest_kvbench.pipeline.score import score


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
            prepared.experiment.kv,
            fingerprint=prepared.fingerprint,
            run_id=site.run_id,
            folder=prepared.folder,
        )

    return Pool(
        prepared.database,
        start,
        SharedControls(controls_root(site, prepared.folder)),
        on_answers=on_answers,
    )


def work_of(
    prepared: Prepared, group: plan.CellGroup, planned: Sequence[tuple[Cell, Request]]
) -> Work:
    """What a group is to ask, and when: first what tells whether its control is sane.

    Then the rest at once, or in rounds where sampling is sequential.
    """
    experiment = prepared.experiment
    draws = []
    if experiment.sequential:
        from pytest_kvbench.pipeline.rounds import group_draws

        draws = list(group_draws(experiment, prepared.manifests, planned))
    keys = [request.key for _, request in planned]
    shares_prefill = experiment.engine.shares_prefill

    def wanted(store: Store) -> list[Request]:
        asked = planned
        if draws:
            score(store, keys)
            outcomes = stored_outcomes(prepared, store, planned)
            asked = [pair for draw in draws for pair in draw.wanted(draw.progress(outcomes))]
        first = sane_control.asked_first(asked, shares_prefill=shares_prefill)
        known = store.settled([request.key for _, request in asked])
        if any(request.key not in known for _, request in first):
            return [request for _, request in first]
        if len(known) < len(asked) and (wrong := driver.sickness(prepared, store, planned)):
            raise driver.sick_error(group, planned[0][0].control, wrong)
        return [request for _, request in asked]

    return Work(group.control_id, tuple(request for _, request in planned), wanted)


@dataclass(frozen=True)
class Ran:
    """What a run came to, and the errors of the groups whose control is not sane."""

    tally: Tally
    sick: tuple[ControlError, ...]


def run(prepared: Prepared, site: Site, on_answers: Callable[[int], None]) -> Ran:
    """Answer everything the plan lacks, group after group, and wait for it.

    A control that is not sane stops its own group alone.

    Raises:
        EngineError: the engine could not be started, or is gone; what was answered is stored.
    """
    pool = make_pool(prepared, site, on_answers)
    by_group: dict[plan.CellGroup, list[tuple[Cell, Request]]] = {}
    for cell, request in prepared.requests():
        by_group.setdefault(plan.CellGroup.of(cell), []).append((cell, request))
    try:
        futures = [
            pool.submit(work_of(prepared, group, planned)) for group, planned in by_group.items()
        ]
        ends = [_end(future) for future in futures]
    finally:
        pool.close()
    return Ran(
        sum((end for end in ends if isinstance(end, Tally)), Tally()),
        tuple(end for end in ends if isinstance(end, ControlError)),
    )


def _end(future: Future[Tally]) -> Tally | ControlError:
    """What became of a group; what stops every group is raised."""
    try:
        return future.result()
    except Exception as error:
        cause = first_cause(error)
        if isinstance(cause, ControlError):
            return cause
        raise cause from None
