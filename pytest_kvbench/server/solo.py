"""A cache that one arm alone decodes with: while its policy acts, or in fewer bits.

Its press stays registered, and whatever it remembers is this arm's: hooks, masks and random
numbers are on the model only while this arm's own step runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache

from pytest_kvbench.server.attention import Draws, Mask, set_masks, stock, take_mask
from pytest_kvbench.server.jobs import Moment
from pytest_kvbench.server.model import LocalModel


@dataclass(frozen=True)
class Size:
    """A cache's bytes at one moment: those it has, those in use, and those of the full cache."""

    kept: int
    used: float
    full: int


@dataclass
class Sizes:
    """A cache's bytes after the prompt and after every step since."""

    moments: list[Size] = field(default_factory=list)

    @property
    def acted(self) -> list[Size]:
        """The moments from the first at which less was in use than there was; all if none was."""
        first = next((n for n, one in enumerate(self.moments) if one.used < one.full), 0)
        return self.moments[first:]

    @property
    def achieved(self) -> float:
        """The share in use from the first act on: of all bytes at all these moments."""
        return sum(one.used for one in self.acted) / sum(one.full for one in self.acted)

    def report(self) -> Mapping[str, Moment]:
        """The bytes at the end of the prompt, their mean over the reply, and the peak."""
        peak = max(self.moments, key=lambda one: one.kept)
        return {
            "prompt": _moment([self.moments[0]]),
            "mean": _moment(self.moments),
            "peak": _moment([peak]),
        }


def _moment(some: Sequence[Size]) -> Moment:
    kept, full = sum(one.kept for one in some), sum(one.full for one in some)
    return Moment(kept // len(some), full // len(some))


class SoloKV:
    """One arm's cache, and the press that acts on it while decoding, if one does."""

    def __init__(self, model: LocalModel, cache: Cache, press: Any, draws: Draws) -> None:
        self._model = model
        self._press = press
        self._draws = draws
        self._masks: list[Mask] = [None] * len(model.attention_layers)
        self._seen = 0
        self._token_bytes = 0.0
        self.cache = cache
        self.sizes = Sizes()

    @property
    def acts(self) -> bool:
        """Whether a policy acts on it while decoding."""
        return self._press is not None

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) after the last of `tokens` (1, n) at `positions`."""
        with stock(self._model), self._draws.going_on(), self._registered():
            set_masks(self._model, self._masks)
            output = self._model.network(
                input_ids=tokens,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.take_masks()
        self.note(tokens.shape[1])
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def take_masks(self) -> None:
        """Take the masks of a pass off the model."""
        self._masks = [take_mask(layer) for layer in self._model.attention_layers]

    def note(self, tokens: int) -> None:
        """Note the sizes after a pass over so many tokens."""
        self._seen += tokens
        heads = self._model.network.config.num_key_value_heads
        if not self._token_bytes:  # of the first pass nothing is known but the model
            self._token_bytes = token_bytes(self._model)
        full = int(self._token_bytes * self._seen)
        kept = nbytes_of([vars(layer) for layer in self.cache.layers])
        hidden = sum(len(mask[0]) for mask in self._masks if mask is not None)
        entry = self._token_bytes / (heads * len(self._masks))
        self.sizes.moments.append(Size(kept, kept - hidden * entry, full))

    @property
    def tokens(self) -> float:
        """Tokens in use, as a mean over layers."""
        last = self.sizes.moments[-1]
        return last.used / self._token_bytes

    @contextlib.contextmanager
    def _registered(self) -> Iterator[None]:
        """kvpress's hook on every layer, as its context manager sets it; state is left alone."""
        hooks = [
            layer.register_forward_hook(self._press.forward_hook, with_kwargs=True)
            for layer in (self._model.attention_layers if self._press else ())
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def token_bytes(model: LocalModel) -> float:
    """Bytes that a token takes in a full cache: keys and values of all layers."""
    config = model.network.config
    width = model.attention_layers[0].head_dim
    size = torch.tensor([], dtype=model.network.dtype).element_size()
    return float(2 * config.num_key_value_heads * width * size * len(model.attention_layers))


def nbytes_of(held: Any) -> int:
    """The bytes of all tensors in what a cache's layers hold, packed ones as they are packed."""
    if isinstance(held, torch.Tensor):
        inner = getattr(held, "__tensor_flatten__", None)
        if type(held) is torch.Tensor or inner is None:
            return held.numel() * held.element_size()
        return sum(nbytes_of(getattr(held, name)) for name in inner()[0])
    if isinstance(held, Mapping):
        return sum(map(nbytes_of, held.values()))
    if isinstance(held, list | tuple):
        return sum(map(nbytes_of, held))
    return 0
