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

WORTHWHILE = 0.5
"""The least share of a prompt that must be known; a common system prompt alone is not worth it."""


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
        """Bytes held."""
        return self.hidden.nbytes + self.keys.nbytes + self.values.nbytes


class PrefillCache:
    """The prefills of recent prompts, at most `max_bytes` together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[tuple[int, ...], list[Layer]] = OrderedDict()

    def find(self, ids: Sequence[int]) -> list[Layer]:
        """The layers of the longest known beginning of `ids`, the last token never included.

        Empty where less than `WORTHWHILE` is known.
        """
        shared = {known: _common(known, ids) for known in self._kept}
        best = max(shared, key=lambda known: shared[known], default=())
        count = min(shared.get(best, 0), len(ids) - 1)
        if count < WORTHWHILE * len(ids):
            return []
        self._kept.move_to_end(best)
        return [layer.first(count) for layer in self._kept[best]]

    def add(self, ids: Sequence[int], layers: list[Layer]) -> None:
        """Keep a prefill, if it fits at all."""
        size = sum(layer.nbytes for layer in layers)
        if size > self.max_bytes:
            return
        self._drop(tuple(ids))
        self._kept[tuple(ids)] = layers
        self.nbytes += size
        while self.nbytes > self.max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, known: tuple[int, ...]) -> None:
        self.nbytes -= sum(layer.nbytes for layer in self._kept.pop(known, []))


def _common(known: Sequence[int], ids: Sequence[int]) -> int:
    """How many tokens two prompts share from the beginning."""
    pairs = enumerate(zip(known, ids, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(known), len(ids)))
