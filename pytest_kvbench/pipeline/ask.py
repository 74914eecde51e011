"""What a group asks of its engine, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_kvbench.engines import Engine
from pytest_kvbench.errors import ControlError
from pytest_kvbench.pipeline import plan, sane_control
from pytest_kvbench.pipeline.pool import Pool, Tally, Work, first_cause
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    pass
from pytest_kvbench.pipeline.group import Prepared, Site, controls_root, source_of
from pytest_kvbench.pipeline.rounds import stored_outcomes
from pytest_kvbench.pipeline.sane_control import sickness
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
        if len(known) < len(asked) and (wrong := sickness(prepared, store, planned)):
            raise ControlError(
                f"{planned[0][0].control.item_id}: {wrong}",
                f"its treatments are not asked; see its prompts: kvbench inspect {group.task}",
            )
        return [request for _, request in asked]

    return Work(group.control_id, tuple(request for _, request in planned), wanted)


def run(prepared: Prepared, site: Site, on_answers: Callable[[int], None]) -> Tally:
    """Answer everything the plan lacks, group after group, and wait for it.

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
        try:
            tallies = [future.result() for future in futures]
        except Exception as error:
            raise first_cause(error) from None
    finally:
        pool.close()
    return sum(tallies, Tally())
