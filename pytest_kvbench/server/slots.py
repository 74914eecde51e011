"""Rows in slots of one fixed capacity, one pass over all of them: the way of GPUs.

Keys and values are written in place, at each slot's length; whatever is beyond it is masked. So the
shapes of a step never change: on a GPU it is captured once and replayed, and an answer is the same
bit for bit whatever the other slots hold, in every type.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from pytest_kvbench.server.decoder import Next, pass_over, waits_for_place
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.ragged import Buffers, Place, RowKV
from pytest_kvbench.server.rows import Decoding
from pytest_kvbench.server.seeing import Attend, Seen, fastest
from pytest_kvbench.server.shape import GB, Shape, TooLargeError
from pytest_kvbench.server.solo import token_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotKeys:
    """The keys of all slots in one layer, (slots, kv_heads, capacity, head_dim)."""

    keys: torch.Tensor
    seen: Seen
    attention: Attend

    def attend(
        self, query: torch.Tensor, value: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """See `ragged.Attended`. Query heads that share a key head become queries of one head."""
        slots, heads, count, width = query.shape
        folded = query.reshape(slots, self.keys.shape[1], -1, width)
        out = self.attention(folded, self.keys, value, self.seen, scaling)
        return out.reshape(slots, heads, count, width).transpose(1, 2).contiguous()


class SlotStore(Cache):
    """The buffers of all slots. They lie by token, which every kernel reads without a copy."""

    def __init__(self, model: LocalModel, shape: Shape) -> None:
        super().__init__(layers=[])
        self._idle = shape.capacity - 1
        heads, width = model.network.config.num_key_value_heads, model.head_dim
        size = (shape.slots, shape.capacity, heads, width)
        self._layers: list[Buffers] = []
        for layer in model.attention_layers:
            like = next(layer.parameters())
            keys, values = (like.new_zeros(size, dtype=model.network.dtype) for _ in range(2))
            self._layers.append((keys.transpose(1, 2), values.transpose(1, 2)))
        self._rows = torch.arange(shape.slots, device=model.device)
        self._attention = fastest(model, *self._layers[0])
        self.lengths = torch.zeros(
            len(self._layers), shape.slots, dtype=torch.long, device=model.device
        )
        self._until = torch.zeros_like(self.lengths, dtype=torch.int32)
        self.mask = self.lengths.new_zeros(*self.lengths.shape, shape.capacity, dtype=torch.bool)
        self._places = torch.arange(shape.capacity, device=model.device)

    def place(self, index: int) -> Place:
        """The buffers of one slot, as a row takes them."""

        def buffers(layer: int) -> Buffers:
            keys, values = self._layers[layer]
            return keys[index : index + 1], values[index : index + 1]

        return Place(index, buffers)

    def see(self) -> None:
        """Let each slot be seen up to its length, the token that is about to come included.

        A slot that nobody uses has its first place seen alone: all of it would be read in vain.
        """
        self._until.copy_(self.lengths.remainder(self._idle).add_(1))
        torch.lt(self._places, self._until[:, :, None], out=self.mask)

    def update(  # type: ignore[override]  # what is attended to is all slots
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        cache_kwargs: dict[str, Any] | None = None,  # noqa: ARG002 - transformers passes it
    ) -> tuple[SlotKeys, torch.Tensor]:
        """Write (slots, kv_heads, 1, head_dim) at each slot's length; returns what is there."""
        keys, values = self._layers[layer_idx]
        device = keys.device  # that of the layer, where a model is on several
        rows, at = self._rows.to(device), self.lengths[layer_idx].to(device)
        keys[rows, :, at], values[rows, :, at] = key_states[:, :, 0], value_states[:, :, 0]
        mask, until = self.mask[layer_idx][:, None, None], self._until[layer_idx]
        seen = Seen(mask.to(device), until.to(device))
        return SlotKeys(keys, seen, self._attention), values


class Slots:
    """Decodes rows in slots; see `decoder.Decoder`.

    A slot that nobody uses takes part all the same: its token goes to its last place, which no row
    is given. Rows whose policy masks or acts take passes of their own. `left`: the bytes beside
    the slots that rows may wait in; None: as many as they need.
    """

    chunk: int | None

    def __init__(self, model: LocalModel, shape: Shape, left: int | None = None) -> None:
        self.chunk = shape.chunk
        self._left = left
        self._model = model
        self._shape = shape
        self._store = SlotStore(model, shape)
        self._held: list[RowKV | None] = [None] * shape.slots
        layers = len(model.attention_layers)
        self._idle = [0, 0, *[shape.capacity - 1] * layers]
        self._state = torch.tensor([self._idle] * shape.slots, device=model.device).T.contiguous()
        vocabulary = int(model.network.config.vocab_size)
        self._logits = torch.zeros(
            shape.slots, vocabulary, dtype=model.network.dtype, device=model.device
        )
        self._likeliest = torch.zeros(shape.slots, dtype=torch.long, device=model.device)
        self._graph: Any = None
        self._captures = _on_one_gpu(model)

    def row(self, room: int) -> RowKV:
        """See `decoder.Decoder.row`: in a slot at once, if one is free."""
        free = next((n for n, held in enumerate(self._held) if held is None), None)
        layers = len(self._model.attention_layers)
        if free is None:
            return RowKV(layers, room)
        row = self._held[free] = RowKV(layers, room, self._store.place(free))
        return row

    def arrange(self, rows: Sequence[RowKV], coming: Sequence[RowKV]) -> None:
        """See `decoder.Decoder.arrange`."""
        living = {id(one) for one in (*rows, *coming)}
        self._held = [one if id(one) in living else None for one in self._held]
        waiting = (one for one in rows if one.place is None and not one.masked)
        free = (n for n, held in enumerate(self._held) if held is None)
        for index, row in list(zip(free, waiting, strict=False)):
            row.move_to(self._store.place(index))
            self._held[index] = row

    def admits(self, arms: int) -> bool:
        """See `decoder.Decoder.admits`: each finds a slot, or all slots are free."""
        return self._held.count(None) >= min(arms, self._shape.slots)

    def beyond(self, arms: int, tokens: int) -> int:
        """See `decoder.Decoder.beyond`: more arms than slots wait in memory of their own."""
        waiting = max(0, arms - self._shape.slots)
        needed = waiting * tokens * int(token_bytes(self._model))
        if self._left is not None and needed > self._left:
            raise TooLargeError(
                f"{arms} arms of {tokens} tokens are {waiting} more than the {self._shape.slots} "
                f"slots of this server: they need {needed / GB:.1f} GB beside them, and "
                f"{self._left / GB:.1f} GB are left. Valid: fewer arms a request, or a shorter "
                "prompt."
            )
        return needed

    def together(self, rows: Sequence[RowKV]) -> list[list[RowKV]]:
        """See `decoder.Decoder.together`: how many they are would change their shape."""
        return [[row] for row in rows]

    def step(self, rows: Sequence[Decoding]) -> Iterable[Next]:
        """See `decoder.Decoder.step`."""
        placed = [row for row in rows if waits_for_place(row) and _place(row) is not None]
        if placed:
            yield from self._step(placed)
        for row in rows:
            if not waits_for_place(row):
                yield from pass_over(self._model, [row])

    def _step(self, rows: Sequence[Decoding]) -> Iterable[Next]:
        columns = [self._idle] * self._shape.slots
        at = {}
        for row in rows:
            kv, place = row.kv, _place(row)
            if isinstance(kv, RowKV) and place is not None:
                columns[place] = [row.token, row.position, *kv.lengths]
                at[place] = row
                kv.grow()
        self._state.copy_(torch.tensor(columns).T)
        self._run()
        likeliest = self._likeliest.tolist()
        return [Next(row, self._logits[n], likeliest[n]) for n, row in at.items()]

    def _run(self) -> None:
        if self._captures and self._graph is None:
            self._graph = self._captured()
            self._captures = self._graph is not None
        if self._graph is None:
            self._pass()
        else:
            self._graph.replay()

    def _pass(self) -> None:
        """One token of every slot, from `_state` to `_logits`: nothing else goes in or out."""
        tokens, positions = self._state[0], self._state[1]
        self._store.lengths.copy_(self._state[2:])
        self._store.see()
        output = self._model.network(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            cache_position=positions[:1],
            past_key_values=self._store,
            use_cache=True,
            logits_to_keep=1,
        )
        self._logits.copy_(output.logits[:, -1])
        torch.argmax(self._logits, -1, out=self._likeliest)

    def _captured(self) -> Any:
        """The pass as one graph; None where the model waits for its device, and is run as it is."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # upstream
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._pass()  # kernels are chosen, and workspaces made
            why = _why_not_captured(self._pass)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            if not why:
                # Threads that do nothing here may do what they like meanwhile.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self._pass()
        except RuntimeError as error:
            why = str(error)
        if why:
            log.warning("a step could not be captured, so each is run anew: %s", why)
        return None if why else graph


def _place(row: Decoding) -> int | None:
    """The slot that a row is in."""
    place = row.kv.place if isinstance(row.kv, RowKV) else None
    return None if place is None else place.index


def _on_one_gpu(model: LocalModel) -> bool:
    devices = {weight.device for weight in model.network.parameters()}
    return len(devices) == 1 and model.device.type == "cuda"


def _why_not_captured(step: Callable[[], None]) -> str:
    """What in a step waits for its device; empty where nothing does.

    A capture would fail there, and leave torch's allocator and generator in the middle of it.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""
