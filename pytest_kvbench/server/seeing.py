"""How slots are attended to: whole under a mask, or on GPUs no further than they are long."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from pytest_kvbench.server.model import LocalModel

log = logging.getLogger(__name__)


@dataclass
class Seen:
    """How far each slot may be seen in one layer: as a mask (slots, 1, 1, capacity), as lengths."""

    mask: torch.Tensor
    lengths: torch.Tensor


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Seen, float | None], torch.Tensor]
"""Attention of queries (slots, kv_heads, heads a kv_head, head_dim), and the same shape back."""


def masked(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: Seen,
    scaling: float | None,
) -> torch.Tensor:
    """Attention over whole slots, what is not to be seen masked."""
    return scaled_dot_product_attention(query, keys, values, attn_mask=seen.mask, scale=scaling)


def by_length(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: Seen,
    scaling: float | None,
) -> torch.Tensor:
    """Attention that reads each slot up to its length and no further, on GPUs.

    How a slot is cut for the cores depends on the capacity and its own length alone.

    Raises:
        ImportError: this torch has no such attention.
    """
    from torch.nn.attention import varlen

    slots, kv_heads, capacity, width = keys.shape
    starts = torch.arange(slots + 1, dtype=torch.int32, device=query.device)
    flat_keys, flat_values = (
        one.transpose(1, 2).reshape(slots * capacity, kv_heads, width) for one in (keys, values)
    )
    out = varlen.varlen_attn(
        query.reshape(slots, -1, width),
        flat_keys,
        flat_values,
        starts,
        starts * capacity,
        1,
        capacity,
        scale=scaling,
        enable_gqa=True,
        seqused_k=seen.lengths,
    )
    if not isinstance(out, torch.Tensor):
        raise TypeError("only the result was asked for")
    return out.reshape(query.shape)


def fastest(model: LocalModel, keys: torch.Tensor, values: torch.Tensor) -> Attend:
    """The attention that reads least, where this torch and this GPU have it and it is right.

    `keys`, `values`: empty buffers of a layer, to try it with.
    """
    short = model.network.dtype in (torch.bfloat16, torch.float16)
    if model.device.type != "cuda" or not short:
        return masked
    logging.getLogger("torch.nn.attention.varlen").setLevel(logging.WARNING)  # a line a call
    heads = model.network.config.num_attention_heads
    try:
        agree = agrees(by_length, heads, keys, values)
    except Exception as error:  # an older torch, or a kernel that is not built for this GPU
        log.warning("attention by length is not to be had here: %s", error)
        return masked
    return by_length if agree else masked


def agrees(attention: Attend, heads: int, keys: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether it finds what `masked` finds in every slot, whatever is in the others.

    Tried in the buffers of a layer, (slots, kv_heads, capacity, head_dim), which are zero again
    afterwards: how the work is cut for the cores depends on their shape.
    """
    slots, kv_heads, capacity, width = keys.shape
    made = torch.Generator(keys.device).manual_seed(0)
    query = keys.new_empty(slots, kv_heads, heads // kv_heads, width)
    query.normal_(std=4, generator=made)  # few keys are looked at: the mean of all tells nothing
    for buffer in (keys, values):
        buffer.normal_(generator=made)
    lengths = torch.linspace(1, capacity, slots, device=keys.device).int()
    for slot, length in enumerate(lengths.tolist()):
        # Every other head looks at where the slot ends most, and would at what is behind it.
        keys[slot, ::2, length - 1 : length + 1] = query[slot, ::2, :1]
    mask = torch.arange(capacity, device=keys.device) < lengths[:, None]
    seen = Seen(mask[:, None, None], lengths)
    found, right = (one(query, keys, values, seen, None) for one in (attention, masked))
    close = torch.allclose(found.float(), right.float(), atol=2e-2, rtol=2e-2)
    lengths[:-1], query[:-1] = 1, 0
    keys[:-1], values[:-1] = 0, 0
    alone = attention(query, keys, values, Seen(mask[:, None, None], lengths), None)
    for buffer in (keys, values):
        buffer.zero_()
    return close and torch.equal(found[-1], alone[-1])
