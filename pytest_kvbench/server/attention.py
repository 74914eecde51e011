"""The model as kvpress expects it: its own attention, and masks that are a request's alone.

kvpress keeps which entries of a cache are masked on the attention modules. Here they are there only
while one request's forward pass runs: two requests never meet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pytest_kvbench.server.model import LocalModel

Mask = Sequence[torch.Tensor] | None
"""kvpress's `masked_key_indices` of a layer: batch, head and position of each masked entry."""


@contextlib.contextmanager
def stock(model: LocalModel, implementation: str = "sdpa") -> Iterator[None]:
    """Another attention than ours, with kvpress's masks; and the model afterwards as it was.

    A press that fails may leave hooks, masks or a replaced `forward` behind.
    """
    config, inner = model.network.config, model.network.model
    ours, forward = config._attn_implementation, inner.__dict__.get("forward")
    hooks = [dict(layer._forward_hooks) for layer in model.attention_layers]
    flags = [dict(layer._forward_hooks_with_kwargs) for layer in model.attention_layers]
    config._attn_implementation = implementation
    set_masks(model, [None] * len(model.attention_layers))
    try:
        yield
    finally:
        config._attn_implementation = ours
        inner.__dict__.pop("forward", None)
        if forward is not None:
            inner.forward = forward
        for layer, before, kwargs in zip(model.attention_layers, hooks, flags, strict=True):
            layer._forward_hooks.clear()
            layer._forward_hooks.update(before)
            layer._forward_hooks_with_kwargs.clear()
            layer._forward_hooks_with_kwargs.update(kwargs)
        set_masks(model, [None] * len(model.attention_layers))


def set_masks(model: LocalModel, masks: Sequence[Mask]) -> None:
    """Put a request's masks on the modules."""
    for layer, mask in zip(model.attention_layers, masks, strict=True):
        layer.masked_key_indices = mask  # type: ignore[assignment]  # kvpress's own


def take_mask(layer: Any) -> Mask:
    """The mask on a module, which has none then."""
    mask: Mask = getattr(layer, "masked_key_indices", None)
    layer.masked_key_indices = None
    return mask


class Draws:
    """A sequence of random numbers of its own: what a press draws depends on its own arm alone."""

    def __init__(self, seed: int, gpus: Sequence[int]) -> None:
        self._devices = list(gpus)
        with torch.random.fork_rng(self._devices):
            torch.manual_seed(seed)
            self._states = self._now()

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """torch's global generators go on from where this sequence was; then are as before."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._states[0])
            for device, state in zip(self._devices, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            try:
                yield
            finally:
                self._states = self._now()

    def _now(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
