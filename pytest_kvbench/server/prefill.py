"""One pass over the prompt, every arm's share of the cache taken from it.

kvpress shrinks the cache in a hook on each attention layer and never feeds the shrunken cache back
into the same pass, so many presses can look at one pass: each gets the arguments that its own hook
would have passed. Only `compress` of kvpress's own classes selects anything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import kvpress
import torch
from transformers import DynamicCache

from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import Layer, PrefillCache, Recording
from pytest_kvbench.server.taking import Taker


@dataclass(frozen=True)
class Prefilled:
    """The result of a pass: what each arm took, the last position's logits (vocabulary,).

    `cached_tokens` were known from an earlier pass, `compress_s` is the part of the time spent on
    compressing.
    """

    arms: list[Taker]
    logits: torch.Tensor
    cached_tokens: int
    compress_s: float


def prefill(
    model: LocalModel,
    cache: PrefillCache,
    ids: Sequence[int],
    arms: list[Taker],
) -> Prefilled:
    """Run the prompt once; each arm takes its share."""
    share_scores(arms)
    cached = cache.find(ids)
    recording = cache.record()
    compressor = _Compressor(model, len(ids), arms, cached, recording)
    logits = _run(model, ids, cached, compressor)
    cache.add(ids, recording)
    return Prefilled(
        arms=arms,
        logits=logits,
        cached_tokens=cached[0].keys.shape[2] if cached else 0,
        compress_s=compressor.watch.seconds,
    )


def _run(
    model: LocalModel, ids: Sequence[int], cached: list[Layer], compressor: _Compressor
) -> torch.Tensor:
    """The forward pass over what is not known yet; logits (vocabulary,) after the last token."""
    past = DynamicCache()
    for index, layer in enumerate(cached):
        past.update(layer.keys, layer.values, index)
    hooks = [
        layer.register_forward_hook(compressor, with_kwargs=True)
        for layer in model.attention_layers
    ]
    try:
        output = model.network(
            input_ids=torch.tensor([list(ids)[past.get_seq_length() :]], device=model.device),
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
    finally:
        for hook in hooks:
            hook.remove()
    logits: torch.Tensor = output.logits[0, -1]
    return logits


class _Compressor:
    """The hook: takes every arm's share of a layer as soon as the layer is done, then frees it."""

    def __init__(
        self,
        model: LocalModel,
        tokens: int,
        arms: list[Taker],
        cached: list[Layer],
        recording: Recording,
    ) -> None:
        self._arms = arms
        self._cached = cached
        self._recording = recording
        self._positions = torch.arange(tokens, device=model.device)
        self._rotary = model.network.model.rotary_emb
        self.watch = Stopwatch(model.device)

    def __call__(
        self, module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        with self.watch.going():
            self._take(module, kwargs, output)

    def _take(self, module: Any, kwargs: dict[str, Any], output: Any) -> None:
        whole = kwargs["past_key_values"].layers[module.layer_idx]
        layer = Layer(self._hidden(module, kwargs), whole.keys, whole.values)
        self._recording.add(layer)
        shown = self._as_if_whole(layer, kwargs) if self._cached else kwargs
        for arm in self._arms:
            arm.take(module, layer, output[1], shown)
        whole.keys = whole.values = layer.keys[:, :, :0].clone()

    def _hidden(self, module: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        hidden: torch.Tensor = kwargs["hidden_states"]
        if not self._cached:
            return hidden
        return torch.cat([self._cached[module.layer_idx].hidden, hidden], dim=1)

    def _as_if_whole(self, layer: Layer, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a pass over the whole prompt, though part of it was known."""
        return {
            **kwargs,
            "hidden_states": layer.hidden,
            "cache_position": self._positions,
            "position_embeddings": self._rotary(layer.hidden, self._positions[None]),
        }


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


def share_scores(arms: Sequence[Taker]) -> None:
    """Let the arms of one policy of kvpress's take one score of each layer, where they may."""
    shared: dict[str, _SharedScores] = {}
    for arm in arms:
        if arm.press is not None and arm.shares_scores:
            scores = shared.setdefault(arm.wanted.key, _SharedScores(arm.press))
            arm.press.score = scores


def note_of(model: LocalModel, press: Any, tokens: int) -> str:
    """Says where pyramidkv gave every layer the same number of tokens, as snapkv would."""
    if not isinstance(press, kvpress.PyramidKVPress):
        return ""
    budgets = [press.get_layer_budget(layer, tokens) for layer in model.attention_layers]
    if len(set(budgets)) > 1:
        return ""
    return (
        f"pyramidkv fell back to snapkv on all {len(budgets)} layers: "
        f"{budgets[0]} of {tokens} tokens each"
    )


class Stopwatch:
    """Seconds that a device works on parts of a pass, measured without making it wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        """One part."""
        started = self._now()
        yield
        self._parts.append((started, self._now()))

    @property
    def seconds(self) -> float:
        """Those of all parts, once the device has done them."""
        if self._device.type != "cuda":
            return sum(end - start for start, end in self._parts)
        torch.cuda.synchronize(self._device)
        milliseconds = sum(start.elapsed_time(end) for start, end in self._parts)
        return float(milliseconds) / 1000

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def clock(device: torch.device) -> float:
    """Seconds of wall time, after the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
