"""Which requests a group hands over, and what it exchanges with shared controls on the way."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kvbench.batch.files import chunks
from pytest_kvbench.pipeline.driver import GroupDriver, drivers
from pytest_kvbench.pipeline.exchange import give, take_over
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.records import Request
from pytest_kvbench.store.controls import SharedControls, control_key
from pytest_kvbench.store.keys import Keys
from pytest_kvbench.store.store import Store


def missing(
    driver: GroupDriver, store: Store, taken: Keys, refused: Keys | None = None
) -> Iterator[Request]:
    """The requests of a group without an answer that are in no open batch.

    Each is taken as it is given.

    Args:
        driver: the group's.
        store: its store.
        taken: what is in open batches.
        refused: what is not asked again.
    """
    for chunk in chunks(driver.ahead(store)):
        store.save_requests(chunk)
        keys = [request.key for request in chunk]
        left_out = store.answered(keys) | set(taken.batches(keys))
        if refused is not None:
            left_out |= set(refused.batches(keys))
        for request in chunk:
            if request.key not in left_out:
                left_out.add(request.key)  # variants that ask the same share a key
                taken.add([request.key])
                yield request


def share_control(driver: GroupDriver, store: Store, shared: SharedControls) -> None:
    """Take over a group's control where another group has paid for it, and give what is here.

    Raises:
        StoreError: the shared folder cannot be written.
    """
    every = [request for _, request in driver.controls]
    if not every:
        return
    arm, place = every[0].arm, driver.group.control_id
    meta = {"arm": arm.to_json(), "task_bin": place}
    with shared.take(f"{control_key(arm)}/{place}", meta) as entry:
        for requests in chunks(every):
            store.save_requests(requests)
            if not driver.prepared.asks_again:
                answered = store.answered([request.key for request in requests])
                take_over(store, entry, [r for r in requests if r.key not in answered])
            give(store, entry, requests)


def share_controls(prepared: Prepared, store: Store, shared: SharedControls) -> None:
    """`share_control` for every group of the plan."""
    for driver in drivers(prepared):
        share_control(driver, store, shared)
