"""What a group and its shared controls exchange, however one asks."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvbench.records import Request
from pytest_kvbench.store.controls import ControlEntry
from pytest_kvbench.store.store import Store


def take_over(store: Store, entry: ControlEntry, missing: Sequence[Request]) -> set[str]:
    """Store answers that another group has paid for; their keys. None is taken for an A/A run."""
    found = [entry.answers[r.key] for r in missing if r.key in entry.answers and not r.aa]
    if found:
        store.save_answers(found, origin="shared-control")
    return {answer.key for answer in found}


def give(store: Store, entry: ControlEntry, controls: Sequence[Request]) -> None:
    """Add a group's answers of its control to the shared entry."""
    entry.add(list(store.answers([request.key for request in controls]).values()))
