"""Prefills worth keeping: prompts that share a context need it computed once.

What a policy looks at (a layer's input, keys and values) is kept for whole prompts, bounded in
bytes, the least recently used leaving first. Compressed caches are never kept: every request
compresses anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MIN_SHARE, MIN_TOKENS = 0.5, 64
"""What must be known of a prompt at least: a common system prompt alone is not worth it."""


@dataclass(frozen=True)
class Layer:
    """One layer of a prefill: hidden (1, n, width), keys and values (1, kv_heads, n, head_dim)."""

    hidden: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    def first(self, count: int) -> Layer:
        """The same for the first `count` tokens."""
        return Layer(self.hidden[:, :count], self.keys[:, :, :count], self.values[:, :, :count])

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take."""
        return self.hidden.nbytes + self.keys.nbytes + self.values.nbytes


class Recording:
    """The layers of one prefill as they come; forgotten once they are too many to keep."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.nbytes = 0
        self.layers: list[Layer] = []

    def add(self, layer: Layer) -> None:
        """Hold on to the next layer, if all of them still fit."""
        self.nbytes += layer.nbytes
        self.layers.append(layer)
        if self.nbytes > self._max_bytes:
            self.layers.clear()


class PrefillCache:
    """The prefills of recent prompts, at most `max_bytes` together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._set_aside = 0
        self.nbytes = 0
        self._kept: OrderedDict[tuple[int, ...], list[Layer]] = OrderedDict()

    def find(self, ids: Sequence[int], step: int = 1) -> list[Layer]:
        """The layers of the longest known beginning of `ids`, the last token never included.

        It is a multiple of `step` long, and empty where less than `MIN_SHARE` of the prompt, or
        fewer than `MIN_TOKENS`, is known.
        """
        shared = {prefix: _common(prefix, ids) for prefix in self._kept}
        best = max(shared, key=lambda prefix: shared[prefix], default=())
        count = min(shared.get(best, 0), len(ids) - 1) // step * step
        if count < max(MIN_SHARE * len(ids), MIN_TOKENS):
            return []
        self._kept.move_to_end(best)
        return [layer.first(count) for layer in self._kept[best]]

    def record(self) -> Recording:
        """For a prefill that is about to run."""
        return Recording(self._allowed)

    def add(self, ids: Sequence[int], recording: Recording) -> None:
        """Keep a prefill, if it was small enough to be recorded."""
        if recording.nbytes > self._allowed:
            return
        self._drop(tuple(ids))
        self._kept[tuple(ids)] = recording.layers
        self.nbytes += recording.nbytes
        self._drop_oldest()

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()
        self.nbytes = 0

    def leave(self, nbytes: int) -> None:
        """Leave so many bytes of what it may have free, until it is told otherwise."""
        self._set_aside = nbytes
        self._drop_oldest()

    @property
    def _allowed(self) -> int:
        return self._max_bytes - self._set_aside

    def _drop_oldest(self) -> None:
        while self._kept and self.nbytes > self._allowed:
            self._drop(next(iter(self._kept)))

    def _drop(self, prefix: tuple[int, ...]) -> None:
        self.nbytes -= sum(layer.nbytes for layer in self._kept.pop(prefix, []))


def _common(prefix: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens two prompts share from the beginning."""
    pairs = enumerate(zip(prefix, ids, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(prefix), len(ids)))
