"""A press of kvpress's on a model, as kvpress itself uses it: what ours is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from pytest_kvbench.server.model import LocalModel


@torch.inference_mode()
def of_kvpress(model: LocalModel, press: Any, ids: list[int], tokens: int) -> str:
    """kvpress used directly, with stock attention."""
    config, cache = model.network.config, DynamicCache()
    ours, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        with press(model.network):
            logits = _ask(model, ids, 0, cache)
        new = [int(logits.argmax())]
        while len(new) < tokens:
            logits = _ask(model, new[-1:], len(ids) + len(new) - 1, cache)
            new.append(int(logits.argmax()))
    finally:
        config._attn_implementation = ours
    return model.decode(new)


def _ask(model: LocalModel, ids: Sequence[int], start: int, cache: DynamicCache) -> torch.Tensor:
    places = torch.arange(start, start + len(ids), device=model.device)[None]
    tokens = torch.tensor([list(ids)], device=model.device)
    output = model.network(tokens, position_ids=places, past_key_values=cache, logits_to_keep=1)
    logits: torch.Tensor = output.logits[0, -1]
    return logits
