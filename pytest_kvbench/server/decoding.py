"""The engine of a server, with the way to decode that was chosen for it."""

from __future__ import annotations

from dataclasses import replace

import torch

from pytest_kvbench.errors import UsageError
from pytest_kvbench.server.choice import Choice
from pytest_kvbench.server.engine import Engine
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.shape import GB
from pytest_kvbench.server.slots import Slots


def engine(model: LocalModel, chosen: Choice, prefills: PrefillCache) -> Engine:
    """What serves a model; its context is no longer than a slot.

    Raises:
        UsageError: others have the memory that its slots need.
    """
    if chosen.shape is None:
        return Engine(model, prefills)
    held = replace(model, context_length=min(model.context_length, chosen.shape.longest))
    _check_free(model, chosen)
    left = None if chosen.memory is None else chosen.memory.left
    return Engine(held, prefills, Slots(held, chosen.shape, left))


def _check_free(model: LocalModel, chosen: Choice) -> None:
    """Refuse what does not fit beside what others have on the card."""
    memory = chosen.memory
    if model.device.type != "cuda" or memory is None or chosen.spread:
        return
    ours = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = torch.cuda.mem_get_info(model.device)[0] + ours
    needed = memory.slots + memory.prompt + memory.working
    if needed > free:
        raise UsageError(
            f"slots: {chosen.shape} need {needed / GB:.1f} GB beside the weights, and "
            f"{free / GB:.1f} GB of the GPU's memory are free: {memory}.",
            "Valid: fewer or shorter slots, or a GPU that others leave free.",
        )
