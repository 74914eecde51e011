"""One pass over the prompt, every arm's share of the cache taken from it.

kvpress shrinks the cache in a hook on each attention layer and never feeds the shrunken cache back
into the same pass, so many presses can look at one pass: each gets the arguments that its own hook
would have passed. Only `compress` of kvpress's own classes selects anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kvpress
import torch
from transformers import DynamicCache

from pytest_kvbench.engines.local.model import LocalModel
from pytest_kvbench.engines.local.policies import Policy
from pytest_kvbench.engines.local.ragged import RowKV


@dataclass(frozen=True)
class Share:
    """What one arm keeps of a prompt: `ratio` of it is removed, by `policy` with all `params`."""

    policy: Policy
    params: Mapping[str, Any]
    ratio: float


@dataclass(frozen=True)
class Prefilled:
    """The result of a pass: a row and a note per share, the last position's logits (vocabulary,).

    `full_bytes` are those of the whole cache; `compress_s` is the part spent on compressing.
    """

    rows: list[RowKV]
    notes: list[str]
    logits: torch.Tensor
    full_bytes: int
    compress_s: float


def prefill(model: LocalModel, ids: Sequence[int], shares: Sequence[Share], room: int) -> Prefilled:
    """Run the prompt once; each row gets its share and room for `room` more tokens."""
    presses = _presses(model, shares)
    rows = [RowKV(len(model.attention_layers), room) for _ in shares]
    compressor = _Compressor(presses, rows, model.device)
    hooks = [
        layer.register_forward_hook(compressor, with_kwargs=True)
        for layer in model.attention_layers
    ]
    try:
        output = model.network(
            input_ids=torch.tensor([list(ids)], device=model.device),
            past_key_values=DynamicCache(),
            use_cache=True,
            logits_to_keep=1,
        )
    finally:
        for hook in hooks:
            hook.remove()
    notes = [_note(model, press, len(ids)) for press in presses]
    return Prefilled(rows, notes, output.logits[0, -1], compressor.full_bytes, compressor.seconds)


class _Compressor:
    """The hook: takes every arm's share of a layer, then frees the layer."""

    def __init__(self, presses: Sequence[Any], rows: Sequence[RowKV], device: torch.device) -> None:
        self._arms = list(zip(presses, rows, strict=True))
        self._device = device
        self.full_bytes = 0
        self.seconds = 0.0

    def __call__(
        self, module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        started = clock(self._device)
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        keys, values = layer.keys, layer.values
        self.full_bytes += keys.nbytes + values.nbytes
        for press, row in self._arms:
            kept = (keys, values)
            if press is not None:
                hidden = kwargs["hidden_states"]
                kept = press.compress(module, hidden, keys, values, output[1], kwargs)
            row.fill(module.layer_idx, *kept)
        layer.keys = layer.values = keys.new_empty((*keys.shape[:2], 0, keys.shape[3]))
        self.seconds += clock(self._device) - started


class _SharedScores:
    """A press's scores of the layer at hand, computed once for all budgets of a policy."""

    def __init__(self, press: Any) -> None:
        self._score = press.score
        self._layer = -1
        self._scores: torch.Tensor | None = None

    def __call__(self, module: Any, *args: Any) -> torch.Tensor | None:
        if module.layer_idx != self._layer:
            self._layer, self._scores = module.layer_idx, self._score(module, *args)
        return self._scores


def _presses(model: LocalModel, shares: Sequence[Share]) -> list[Any]:
    """A press per share (None: nothing is removed), prepared as kvpress's context manager does."""
    shared: dict[Any, _SharedScores] = {}
    presses: list[Any] = []
    for share in shares:
        press = _press(model, share) if share.ratio > 0 else None
        if press is not None and not share.policy.score_uses_budget:
            key = (share.policy.name, tuple(sorted(share.params.items())))
            press.score = shared.setdefault(key, _SharedScores(press))
        presses.append(press)
    for layer in model.attention_layers:
        layer.rotary_emb = model.network.model.rotary_emb
    return presses


def _press(model: LocalModel, share: Share) -> Any:
    press = getattr(kvpress, share.policy.press)(compression_ratio=share.ratio, **share.params)
    press.post_init_from_model(model.network)
    return press


def _note(model: LocalModel, press: Any, tokens: int) -> str:
    """Says where pyramidkv gave every layer the same number of tokens, as snapkv would."""
    if not isinstance(press, kvpress.PyramidKVPress):
        return ""
    budgets = [press.get_layer_budget(layer, tokens) for layer in model.attention_layers]
    if len(set(budgets)) > 1:
        return ""
    return (
        f"pyramidkv fell back to snapkv on all {len(budgets)} layers: "
        f"{budgets[0]} of {tokens} tokens are too few for its pyramid"
    )


def clock(device: torch.device) -> float:
    """Seconds of wall time, after the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
