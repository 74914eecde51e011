"""The shape in which a server decodes, and the memory that it takes: arithmetic, without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import UsageError

GB = 10**9

CHUNK = 2048
"""Tokens of a prompt in one pass, where rows decode between them: about as long as four steps."""

SLOTS = 9
"""A sweep of eight budgets and its control."""

SHARE = 0.9
"""Of a card's memory that a server may take."""

MOST_WEIGHTS = 0.7
"""The share of a card's memory up to which a model's weights are put on one alone."""

_SHAPE = re.compile(r"(\d{1,4})x(\d{1,9})(?:/(\d{1,9}))?")
_LEAST = 16
_MULTIPLE = 256  # of tokens: kernels read whole blocks
_ASIDE = 1536 * 2**20  # the driver's own, workspaces of kernels and the captured step
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


class TooLargeError(Exception):
    """A request that this server's memory does not hold, with the numbers."""


@dataclass(frozen=True)
class Shape:
    """So many slots of so many tokens each, and a prompt in passes of `chunk` tokens.

    It is part of what identifies a server: answers may depend on it, and on nothing else that is
    asked at the same time.
    """

    slots: int
    capacity: int
    chunk: int = CHUNK

    def __str__(self) -> str:
        return f"{self.slots}x{self.capacity}/{self.chunk}"

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its reply: the last place of a slot is nobody's."""
        return self.capacity - 1


@dataclass(frozen=True)
class Sizes:
    """What a model takes, in bytes.

    Attributes:
        weights: all of them.
        kv: keys and values of a token.
        hidden: what goes into all layers for a token: policies look at it.
        active: what a token of a pass needs in the widest layer.
        logits: of one position, and as float32.
        context: tokens that it was made for.
    """

    weights: int
    kv: int
    hidden: int
    active: int
    logits: int
    context: int


@dataclass(frozen=True)
class Memory:
    """Where a card's bytes go; `left` is for prompts that may come again and rows that wait."""

    weights: int
    slots: int
    prompt: int
    working: int
    left: int

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "slots": self.slots,
            "the longest prompt": self.prompt,
            "working space": self.working,
        }
        return ", ".join(f"{name} {nbytes / GB:.1f} GB" for name, nbytes in parts.items())


def parsed(text: str) -> Shape:
    """The shape `SLOTSxCAPACITY` or `SLOTSxCAPACITY/CHUNK`.

    Raises:
        UsageError: it is none.
    """
    found = _SHAPE.fullmatch(text)
    numbers = [int(number) for number in found.groups(str(CHUNK))] if found else [0, 0, 0]
    if not numbers[0] or numbers[1] < _LEAST or numbers[2] < _LEAST:
        raise UsageError(
            f"slots: {text!r} is no shape.",
            f"Valid: auto, none, or as in 8x16384 (slots x tokens each, of at least {_LEAST}) or "
            f"8x16384/{CHUNK} (a prompt in passes of so many).",
        )
    return Shape(*numbers)


def sizes_of(folder: Path, dtype: str) -> Sizes:
    """Those of the model in a folder, served in `dtype`.

    Raises:
        KeyError: its configuration does not say them all.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    width, layers = width_of(dtype), int(config["num_hidden_layers"])
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    inner = int(config.get("intermediate_size") or 4 * hidden)
    return Sizes(
        weights=weights_of(folder, dtype),
        kv=2 * layers * kv_heads * head_dim * width,
        hidden=layers * hidden * width,
        active=(4 * hidden + 3 * inner + 2 * (heads + 2 * kv_heads) * head_dim) * width,
        logits=int(config["vocab_size"]) * (width + 4),
        context=int(config["max_position_embeddings"]),
    )


def width_of(dtype: str) -> int:
    """Bytes of a number."""
    return _WIDTHS[dtype.partition("-")[0]]


def weights_of(folder: Path, dtype: str) -> int:
    """Bytes of a model's weights, served in `dtype`, whatever they are stored in."""
    return sum(map(_numbers, folder.glob("*.safetensors"))) * width_of(dtype)


def _numbers(file: Path) -> int:
    """How many numbers a file of safetensors holds: its header says their shapes."""
    with file.open("rb") as stream:
        header: Mapping[str, Any] = json.loads(
            stream.read(int.from_bytes(stream.read(8), "little"))
        )
    return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")


def memory(shape: Shape, sizes: Sizes, total: int, share: float = SHARE) -> Memory:
    """Where the bytes of a card of `total` go; `left` is negative where they are too few."""
    working = _ASIDE + shape.chunk * sizes.active + shape.slots * sizes.logits
    slots = shape.slots * shape.capacity * sizes.kv
    prompt = shape.capacity * (sizes.kv + sizes.hidden)
    left = int(total * share) - sizes.weights - slots - prompt - working
    return Memory(sizes.weights, slots, prompt, working, left)


def fitting(sizes: Sizes, total: int, share: float = SHARE) -> Shape:
    """The shape for a card of so many bytes: slots as long as fit, up to the model's context.

    Raises:
        UsageError: not even short ones fit.
    """
    empty = memory(Shape(SLOTS, 0), sizes, total, share)
    fit = empty.left // (SLOTS * sizes.kv + sizes.kv + sizes.hidden)
    whole = -(-(sizes.context + 1) // _MULTIPLE) * _MULTIPLE
    shape = Shape(SLOTS, min(whole, fit // _MULTIPLE * _MULTIPLE))
    if shape.capacity <= 0:
        refuse(Shape(SLOTS, _MULTIPLE), sizes, total, share)
    return shape


def refuse(shape: Shape, sizes: Sizes, total: int, share: float = SHARE) -> Memory:
    """Where the bytes go, if they are enough.

    Raises:
        UsageError: with the numbers.
    """
    found = memory(shape, sizes, total, share)
    if found.left < 0:
        raise UsageError(
            f"slots: {shape} does not fit into {share:g} of {total / GB:.1f} GB, by "
            f"{-found.left / GB:.1f} GB: {found}.",
            "Valid: fewer or shorter slots, a larger --memory-share, or a larger or second GPU.",
        )
    return found
