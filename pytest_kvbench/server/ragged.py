"""A cache whose rows have different lengths, and the attention that reads it.

Per decoding step the weights should be read once for all rows and each row's kept tokens once.
So linear layers run batched, and attention runs row by row over buffers allocated in advance:
nothing is padded, copied or concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "kvbench_ragged"
"""The name under which transformers finds `ragged_attention`."""


Keys = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
"""A row's keys, or these and which of them are visible, (kv_heads, tokens)."""


Causal = Callable[[int, int, int, torch.dtype, torch.device], torch.Tensor]
"""See `_causal`."""


Buffers = tuple[torch.Tensor, torch.Tensor]
"""Of one layer: keys and values, (1, kv_heads, tokens, head_dim) each."""


@dataclass(frozen=True)
class Place:
    """A place in memory that a row may take: its number, and its buffers by layer."""

    index: int
    buffers: Callable[[int], Buffers]


class RowKV:
    """Keys and values of one row, per layer, in buffers with room for `room` more tokens.

    `place`: where its buffers are, if they are not its own; `shift`: how far its tokens stand
    before the places they had in the prompt; `idle_bytes`: those of entries that are masked and of
    channels that are zero.
    """

    def __init__(self, layers: int, room: int, place: Place | None = None) -> None:
        self.place = place
        self._room = room
        self._keys: list[torch.Tensor | None] = [None] * layers
        self._values: list[torch.Tensor | None] = [None] * layers
        self._visible: list[torch.Tensor | None] = [None] * layers
        self._hidden = 0
        self.lengths = [0] * layers
        self.shift = 0
        self.idle_bytes = 0.0

    def fill(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take over what a policy kept: two tensors (1, kv_heads, kept, head_dim).

        Raises:
            ValueError: its place is too small for it and the reply.
        """
        if self.place is not None:
            longest = self.place.buffers(layer)[0].shape[2] - 1  # the last is nobody's
            if keys.shape[2] + self._room > longest:
                raise ValueError(
                    f"it kept {keys.shape[2]} tokens: with {self._room} more of the request they "
                    f"are longer than a slot of {longest}"
                )
        self._put(layer, keys, values)

    def _put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        if self.place is None:
            buffers = self._own(keys), self._own(values)
        else:
            buffers = self.place.buffers(layer)
            for buffer in buffers:  # no number of who was here before is left, be it none
                buffer[:, :, keys.shape[2] :].zero_()
        self._keys[layer], self._values[layer] = buffers
        self.append(layer, keys, values)

    def _own(self, kept: torch.Tensor) -> torch.Tensor:
        return kept.new_empty(*kept.shape[:2], kept.shape[2] + self._room, kept.shape[3])

    def move_to(self, place: Place) -> None:
        """Go on in the buffers of a place."""
        held = [self._held(layer) for layer in range(len(self.lengths))]
        lengths, self.lengths = self.lengths, [0] * len(self.lengths)
        self.place = place
        for layer, (buffers, length) in enumerate(zip(held, lengths, strict=True)):
            self._put(layer, *(buffer[:, :, :length] for buffer in buffers))

    @property
    def masked(self) -> bool:
        """Whether entries of it may not be looked at."""
        return any(mask is not None for mask in self._visible)

    def grow(self) -> None:
        """Count a token that was written to every layer's buffers."""
        self.lengths = [length + 1 for length in self.lengths]

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Buffers:
        """Add tokens (1, kv_heads, n, head_dim); returns views of all that is there."""
        key_buffer, value_buffer = self._held(layer)
        start, end = self.lengths[layer], self.lengths[layer] + keys.shape[2]
        key_buffer[:, :, start:end] = keys
        value_buffer[:, :, start:end] = values
        self.lengths[layer] = end
        return key_buffer[:, :, :end], value_buffer[:, :, :end]

    def rewind(self, tokens: int) -> None:
        """Drop the last tokens that were added to every layer."""
        self.lengths = [length - tokens for length in self.lengths]

    def visible(self, layer: int) -> torch.Tensor | None:
        """Which entries of a layer may be looked at, (kv_heads, tokens); None: all."""
        mask = self._visible[layer]
        return None if mask is None else mask[:, : self.lengths[layer]]

    def hide(self, layer: int, entries: Sequence[torch.Tensor]) -> None:
        """Mask entries of a filled layer: kvpress's batch, head and position of each."""
        keys, values = self._held(layer)
        mask = torch.ones(keys.shape[1:3], dtype=torch.bool, device=keys.device)
        mask[entries[1].to(keys.device), entries[2].to(keys.device)] = False
        hidden = int((~mask).sum())
        width = keys.shape[3] * keys.element_size() + values.shape[3] * values.element_size()
        self._visible[layer] = mask
        self._hidden += hidden
        self.idle_bytes += hidden * width

    def note_zero_channels(self, layer: int) -> None:
        """Count channels of keys that are zero in all of a filled layer's tokens as not in use."""
        keys, _ = self._held(layer)
        held = keys[:, :, : self.lengths[layer]]
        zero = (held == 0).all(dim=2).float().mean()
        self.idle_bytes += float(zero) * held.numel() * held.element_size()

    def _held(self, layer: int) -> Buffers:
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None:
            raise RuntimeError(f"layer {layer} is not filled")
        return keys, values

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens held, buffers' spare room left out."""
        return sum(
            buffer[:, :, :length].numel() * buffer.element_size()
            for buffers in (self._keys, self._values)
            for buffer, length in zip(buffers, self.lengths, strict=True)
            if buffer is not None
        )

    @property
    def tokens(self) -> float:
        """Tokens held and not masked, as a mean over layers and heads."""
        heads = self._held(0)[0].shape[1]
        return (sum(self.lengths) - self._hidden / heads) / len(self.lengths)


class RowsKeys(list[Keys]):
    """The keys of each row, and the masks that a pass has made so far: layers need the same."""

    def __init__(self, keys: Iterable[Keys], causal: Causal) -> None:
        super().__init__(keys)
        self.causal = causal


class RaggedCache(Cache):
    """What one forward pass over several rows appends to and reads."""

    def __init__(self, rows: list[RowKV]) -> None:
        super().__init__(layers=[])
        self._rows = rows
        # As many as there are rows. Where a row's layers differ in length nothing can be shared.
        self._causal = lru_cache(maxsize=len(rows))(_causal)

    def update(  # type: ignore[override]  # one tensor per row is the point of this class
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        cache_kwargs: dict[str, Any] | None = None,  # noqa: ARG002 - transformers passes it
    ) -> tuple[RowsKeys, list[torch.Tensor]]:
        """Append (rows, kv_heads, n, head_dim); returns each row's keys and each row's values."""
        pairs = [
            row.append(layer_idx, keys, values)
            for row, keys, values in zip(
                self._rows, torch.split(key_states, 1), torch.split(value_states, 1), strict=True
            )
        ]
        masks = [row.visible(layer_idx) for row in self._rows]
        seen: Iterator[Keys] = (
            keys if mask is None else (keys, mask)
            for (keys, _), mask in zip(pairs, masks, strict=True)
        )
        return RowsKeys(seen, self._causal), [values for _, values in pairs]


class Attended(Protocol):
    """Keys that know themselves how they are attended to."""

    def attend(
        self, query: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """The result (rows, n, heads, head_dim) of a query (rows, heads, n, head_dim)."""
        ...


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | list[Keys] | Attended,
    value: torch.Tensor | list[torch.Tensor],
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a `RaggedCache`'s rows, or over one prompt with or without a known beginning.

    Query (rows, heads, n, head_dim); the result is (rows, n, heads, head_dim).
    """
    if isinstance(key, torch.Tensor) and isinstance(value, torch.Tensor):
        if key.shape[2] > query.shape[2] or query.device.type != "cpu":
            return _go_on(query, key, value, scaling).transpose(1, 2).contiguous(), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if not isinstance(key, list):
        return key.attend(query, value, scaling), None  # type: ignore[union-attr, arg-type]
    causal = key.causal if isinstance(key, RowsKeys) else _causal
    each = zip(torch.split(query, 1), key, value, strict=True)
    rows = [_attend(*row, scaling, causal) for row in each]
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def _go_on(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """One prompt, whose beginning may be there already: the query's tokens are its last.

    A GPU's kernels look at no more than there is to see, without a mask in memory.
    """
    if query.device.type == "cpu":
        return _attend(query, keys, values, scaling, _causal)
    return end_of_prompt(query, keys, values, scaling)


def end_of_prompt(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """What `_go_on` does on a GPU; the same on a CPU, slowly.

    Of GPU kernels those for float32 know no heads in groups: torch would make whole matrices.
    """
    if query.dtype == torch.float32 and (groups := query.shape[1] // keys.shape[1]) > 1:
        keys, values = (one.repeat_interleave(groups, dim=1) for one in (keys, values))
    bias = causal_lower_right(query.shape[2], keys.shape[2])
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=bias, scale=scaling, enable_gqa=True
    )


def _attend(
    query: torch.Tensor, seen: Keys, values: torch.Tensor, scaling: float | None, causal: Causal
) -> torch.Tensor:
    """One row. Query heads that share a key head become queries of one head.

    That folding is what sdpa's `enable_gqa` means, and 1.4 times as fast on a CPU (2,000 tokens).
    """
    keys, visible = seen if isinstance(seen, tuple) else (seen, None)
    _, heads, count, width = query.shape
    groups = heads // keys.shape[1]
    folded = query.reshape(1, keys.shape[1], groups * count, width)
    mask = None if count == 1 else causal(count, keys.shape[2], groups, query.dtype, query.device)
    if visible is not None:
        seen_by = visible[None, :, None]
        mask = seen_by if mask is None else mask.where(seen_by, -math.inf)
    out = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
    # Not `view`: CUDA's kernels lay their result out by token, the CPU's by head.
    return out.reshape(1, heads, count, width)


def _causal(
    count: int, total: int, groups: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """What is added for the last `count` of `total` tokens, `groups` times (groups * count, total).

    0 where they may look, at themselves and before; elsewhere minus infinity. Numbers, for sdpa
    would make these of booleans in every layer anew.
    """
    hidden = torch.full((count, total), -math.inf, dtype=dtype, device=device)
    return hidden.triu(total - count + 1).repeat(groups, 1)


def register() -> None:
    """Make `ATTENTION` known to transformers, and let a GPU take kernels by shape and type alone.

    cuDNN's attention, which torch may prefer, plans anew for every length of a prompt, and by how
    tensors lie in memory: in a slot they lie otherwise than where a row waits for one.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    AttentionInterface.register(ATTENTION, ragged_attention)
