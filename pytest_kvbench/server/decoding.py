"""The engine of a server, with the way to decode that was chosen for it."""

from __future__ import annotations

from dataclasses import replace

from pytest_kvbench.server.choice import Choice
from pytest_kvbench.server.engine import Engine
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.slots import Slots


def engine(model: LocalModel, chosen: Choice, prefills: PrefillCache) -> Engine:
    """What serves a model; its context is no longer than a slot."""
    if chosen.shape is None:
        return Engine(model, prefills)
    held = replace(model, context_length=min(model.context_length, chosen.shape.longest))
    left = None if chosen.memory is None else chosen.memory.left
    return Engine(held, prefills, Slots(held, chosen.shape, left))
