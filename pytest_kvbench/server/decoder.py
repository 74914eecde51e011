"""How rows decode: what the engine asks, and the way of CPUs, rows of any lengths together.

The way of GPUs is `slots`. Which rows share a pass is part of the way: in float32 it changes no
answer; in shorter types it may, so there rows of several jobs never share one by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.rows import Decoding, forward


@dataclass(frozen=True)
class Next:
    """What a row's next token is taken from: logits (vocabulary,), and the likeliest of them."""

    row: Decoding
    logits: torch.Tensor
    likeliest: int


class Decoder(Protocol):
    """A way to decode."""

    chunk: int | None
    """Tokens of a prompt in one pass; None: all of them."""

    def row(self, room: int) -> RowKV:
        """An empty cache for an arm, with room for so many tokens beyond those kept."""
        ...

    def arrange(self, rows: Sequence[RowKV], coming: Sequence[RowKV]) -> None:
        """Find these rows a place, and take back what others but those that come have."""
        ...

    def admits(self, arms: int) -> bool:
        """Whether a job of so many arms may begin beside what is held."""
        ...

    def beyond(self, arms: int, tokens: int) -> int:
        """Bytes that a job of so many arms and tokens needs beyond what is set aside.

        Raises:
            TooLargeError: they are more than there are.
        """
        ...

    def together(self, rows: Sequence[RowKV]) -> list[list[RowKV]]:
        """Which rows of one job share a pass over tokens that are given."""
        ...

    def step(self, rows: Sequence[Decoding]) -> Iterable[Next]:
        """One pass over the last token of rows with a `RowKV`, of those that can go on."""
        ...


class Ragged:
    """Rows of any lengths in one pass; or, where one row's length changes others, each alone."""

    chunk: int | None

    def __init__(self, model: LocalModel, chunk: int | None = None) -> None:
        self.chunk = chunk
        self._model = model

    def row(self, room: int) -> RowKV:
        """See `Decoder.row`."""
        return RowKV(len(self._model.attention_layers), room)

    def arrange(self, rows: Sequence[RowKV], coming: Sequence[RowKV]) -> None:
        """See `Decoder.arrange`: each has buffers of its own."""

    def admits(self, arms: int) -> bool:  # noqa: ARG002 - there is room for all
        """See `Decoder.admits`."""
        return True

    def beyond(self, arms: int, tokens: int) -> int:  # noqa: ARG002 - the host's memory pages
        """See `Decoder.beyond`: nothing is set aside, and nothing is known to be too much."""
        return 0

    def together(self, rows: Sequence[RowKV]) -> list[list[RowKV]]:
        """See `Decoder.together`."""
        return [[row] for row in rows] if self._model.turns_by_length else [list(rows)]

    def step(self, rows: Sequence[Decoding]) -> Iterable[Next]:
        """See `Decoder.step`."""
        if not self._model.turns_by_length:
            yield from pass_over(self._model, rows)
            return
        for row in rows:
            yield from pass_over(self._model, [row])


def pass_over(model: LocalModel, rows: Sequence[Decoding]) -> Iterable[Next]:
    """One pass over rows of any lengths."""
    caches = [row.kv for row in rows if isinstance(row.kv, RowKV)]
    tokens = torch.tensor([[row.token] for row in rows], device=model.device)
    positions = torch.tensor([[row.position] for row in rows], device=model.device)
    logits = forward(model, caches, tokens, positions)[:, -1]
    likeliest = logits.argmax(-1).tolist()  # one wait for the device, however many rows there are
    return map(Next, rows, logits, likeliest)


def waits_for_place(row: Decoding) -> bool:
    """Whether it decodes in a slot or not at all: its policy selected once, and masks nothing."""
    return isinstance(row.kv, RowKV) and not row.kv.masked
