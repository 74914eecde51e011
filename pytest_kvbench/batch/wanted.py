"""Which requests a group hands over, and what it exchanges with shared controls on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from pytest_kvbench.batch.files import chunks
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.driver import drivers
from pytest_kvbench.pipeline.exchange import give, take_over
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.records import Cell, Request, to_json
from pytest_kvbench.store.controls import ControlEntry, SharedControls, control_key
from pytest_kvbench.store.keys import Keys
from pytest_kvbench.store.store import Store


def missing(
    prepared: Prepared,
    store: Store,
    taken: Keys,
    cells: Sequence[Cell] | None = None,
    refused: Keys | None = None,
) -> Iterator[Request]:
    """The requests without an answer that are in no open batch; each is taken as it is given.

    Args:
        prepared: the group.
        store: its store.
        taken: what is in open batches.
        cells: of which cells; None: of the whole plan.
        refused: what is not asked again.
    """
    wanted = (request for each in drivers(prepared, cells) for request in each.ahead(store))
    for chunk in chunks(wanted):
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


def share_controls(
    prepared: Prepared,
    store: Store,
    shared: SharedControls,
    cells: Sequence[Cell] | None = None,
) -> None:
    """Take over controls that another group has paid for, and give it those that are here."""
    some = plan.cells(prepared.experiment) if cells is None else cells
    for group, members in plan.groups(some).items():
        own = chunks(request for _, request in prepared.each_request([members[0].control]))
        for first in own:
            arm = first[0].arm
            meta = {"arm": to_json(arm), "task_bin": group.control_id}
            with shared.take(f"{control_key(arm)}/{group.control_id}", meta) as entry:
                for requests in chain([first], own):
                    _exchange(store, entry, requests, takes_over=not prepared.asks_again)


def _exchange(
    store: Store, entry: ControlEntry, requests: Sequence[Request], *, takes_over: bool
) -> None:
    store.save_requests(requests)
    if takes_over:
        answered = store.answered([request.key for request in requests])
        take_over(store, entry, [r for r in requests if r.key not in answered])
    give(store, entry, requests)
