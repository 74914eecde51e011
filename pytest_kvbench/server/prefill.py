"""One pass over the prompt, every arm's share of the cache taken from it.

kvpress shrinks the cache in a hook on each attention layer and never feeds the shrunken cache back
into the same pass, so many presses can look at one pass: each gets the arguments that its own hook
would have passed. Only `compress` of kvpress's own classes selects anything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
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


@dataclass(frozen=True)
class Begun:
    """A prompt whose last pass is still to come.

    Attributes:
        ids: all of its tokens.
        past: keys and values of those before that pass.
        hidden: by layer, what went in, (1, n, width) of each pass so far.
        cached_tokens: how many were known from an earlier prompt.
    """

    ids: Sequence[int]
    past: DynamicCache
    hidden: list[list[torch.Tensor]]
    cached_tokens: int


def passes(
    model: LocalModel, cache: PrefillCache, ids: Sequence[int], chunk: int | None
) -> Generator[None, None, Begun]:
    """The passes before the last one, of `chunk` tokens each; none where there is no such limit.

    They begin at multiples of it, wherever a known beginning ends: what comes of a prompt is then
    the same to the last bit, whatever was known.
    """
    known = cache.find(ids, chunk or 1)
    past, hidden = DynamicCache(), [[layer.hidden] for layer in known]
    for index, layer in enumerate(known):
        past.update(layer.keys, layer.values, index)
    begun = Begun(ids, past, hidden or [[] for _ in model.attention_layers], past.get_seq_length())
    while chunk and len(ids) - past.get_seq_length() > chunk:
        _run(model, begun, past.get_seq_length() + chunk, _record(begun.hidden))
        yield
    return begun


def prefill(model: LocalModel, cache: PrefillCache, begun: Begun, arms: list[Taker]) -> Prefilled:
    """Run what is left of a prompt; each arm takes its share of the whole."""
    share_scores(arms)
    recording = cache.record()
    compressor = _Compressor(model, begun, arms, recording)
    logits = _run(model, begun, len(begun.ids), compressor)
    cache.add(begun.ids, recording)
    for arm in arms:
        arm.settle(len(begun.ids))
    return Prefilled(
        arms=arms,
        logits=logits,
        cached_tokens=begun.cached_tokens,
        compress_s=compressor.watch.seconds,
    )


Hook = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]


def _record(hidden: list[list[torch.Tensor]]) -> Hook:
    """The hook of a pass from which no arm takes anything yet."""

    def hook(module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
        hidden[module.layer_idx].append(kwargs["hidden_states"])

    return hook


def _run(model: LocalModel, begun: Begun, end: int, hook: Hook) -> torch.Tensor:
    """The forward pass over the tokens up to `end`; logits (vocabulary,) after the last one."""
    past = begun.past
    tokens = list(begun.ids[past.get_seq_length() : end])
    hooks = [
        layer.register_forward_hook(hook, with_kwargs=True) for layer in model.attention_layers
    ]
    try:
        output = model.network(
            input_ids=torch.tensor([tokens], device=model.device),
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
    finally:
        for handle in hooks:
            handle.remove()
    logits: torch.Tensor = output.logits[0, -1]
    return logits


class _Compressor:
    """The hook: takes every arm's share of a layer as soon as the layer is done, then frees it."""

    def __init__(
        self,
        model: LocalModel,
        begun: Begun,
        arms: list[Taker],
        recording: Recording,
    ) -> None:
        self._arms = arms
        self._hidden = begun.hidden
        self._recording = recording
        self._positions = torch.arange(len(begun.ids), device=model.device)
        self._rotary = model.network.model.rotary_emb
        self.watch = Stopwatch(model.device)

    def __call__(
        self, module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        with self.watch.going():
            self._take(module, kwargs, output)

    def _take(self, module: Any, kwargs: dict[str, Any], output: Any) -> None:
        whole = kwargs["past_key_values"].layers[module.layer_idx]
        before, self._hidden[module.layer_idx] = self._hidden[module.layer_idx], []
        hidden = kwargs["hidden_states"]
        hidden = torch.cat([*before, hidden], dim=1) if before else hidden
        layer = Layer(hidden, whole.keys, whole.values)
        self._recording.add(layer)
        shown = self._as_if_whole(layer, kwargs) if before else kwargs
        for arm in self._arms:
            arm.take(module, layer, output[1], shown)
        whole.keys = whole.values = layer.keys[:, :, :0].clone()

    def _as_if_whole(self, layer: Layer, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a pass over the whole prompt, though part of it went before."""
        positions = self._positions.to(layer.hidden.device)
        return {
            **kwargs,
            "hidden_states": layer.hidden,
            "cache_position": positions,
            # Of the device that embeds positions, where a model is on several.
            "position_embeddings": tuple(
                one.to(positions.device) for one in self._rotary(layer.hidden, positions[None])
            ),
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
            return sum((float(end - start) for start, end in self._parts), 0.0)
        torch.cuda.synchronize(self._device)
        milliseconds = sum((float(a.elapsed_time(b)) for a, b in self._parts), 0.0)
        return milliseconds / 1000

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # upstream
        event.record(torch.cuda.current_stream(self._device))
        return event


def clock(device: torch.device) -> float:
    """Seconds of wall time, after the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
