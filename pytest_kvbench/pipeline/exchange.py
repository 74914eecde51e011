"""What a group and its shared controls exchange, however one asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_kvbench.records import Request
from pytest_kvbench.store.controls import ControlEntry
from pytest_kvbench.store.store import Store


def take_over(store: Store, entry: ControlEntry, missing: Sequence[Request]) -> set[str]:
    """Store answers that another group has paid for; their keys. None is taken for an A/A run."""
    found = [entry.answers[r.key] for r in missing if r.key in entry.answers and not r.aa]
    if found:
        store.save_answers(found, origin="shared-control")
    return {answer.key for answer in found}


def compared_with(store: Store, requests: Sequence[Request]) -> list[Request]:
    """The same with the replies that they are compared on, as far as these are here."""
    found = store.answers([request.reference for request in requests if request.reference])
    return [replace(request, against=found.get(request.reference)) for request in requests]


def give(store: Store, entry: ControlEntry, controls: Sequence[Request]) -> None:
    """Add a group's answers of its control to the shared entry."""
    lacking = [request.key for request in controls if request.key not in entry.answers]
    entry.add(list(store.answers(lacking).values()))
