"""A pass of its own for an arm whose policy cannot share one.

It runs under the context manager of its own press, with the attention that kvpress expects: several
passes, hooks that keep state and attention weights work as they do where kvpress is used directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, QuantizedCache

from pytest_kvbench.policies.params import number_of
from pytest_kvbench.policies.policy import Policy
from pytest_kvbench.policies.quantised import GROUP
from pytest_kvbench.server.attention import Draws, stock, take_mask
from pytest_kvbench.server.making import Maker, PolicyError, Wanted, failure
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.reuse import Layer
from pytest_kvbench.server.solo import SoloKV
from pytest_kvbench.server.taking import check_kept, shift_of

MakeRow = Callable[[], RowKV]


def run_alone(
    model: LocalModel, maker: Maker, ids: Sequence[int], wanted: Wanted, row: MakeRow, seed: int
) -> tuple[RowKV | SoloKV, torch.Tensor]:
    """Run the prompt for one arm; returns its cache, and the logits (vocabulary,) after it.

    `row`: makes what becomes its cache, where its policy does not act while decoding.

    Raises:
        PolicyError: its policy cannot do it.
    """
    draws = Draws(seed, model.gpus)
    tokens = torch.tensor([list(ids)], device=model.device)
    run = _run if wanted.policy.serving in ("own", "shared") else _run_solo
    try:
        return run(model, maker, tokens, wanted, draws, row)
    except PolicyError:
        raise
    except Exception as error:  # a press is anybody's program, and its arm's alone
        raise failure(wanted.policy, error, wanted.params) from error


def _run(
    model: LocalModel,
    maker: Maker,
    tokens: torch.Tensor,
    wanted: Wanted,
    draws: Draws,
    make_row: MakeRow,
) -> tuple[RowKV, torch.Tensor]:
    press, cache, row = maker.press(wanted, prepared=False), DynamicCache(), make_row()
    with stock(model, "eager" if wanted.policy.eager else "sdpa"), draws.going_on():
        with press(model.network):
            output = model.network(
                input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        _fill(model, row, cache)
    row.shift = shift_of(press, row, tokens.shape[1])
    logits: torch.Tensor = output.logits[0, -1]
    return row, logits


def _fill(model: LocalModel, row: RowKV, cache: Any) -> None:
    """Take a cache over into a row, with its masks."""
    for index, (module, held) in enumerate(zip(model.attention_layers, cache.layers, strict=True)):
        nothing = held.keys[:, :, :0]
        check_kept(Layer(nothing, nothing, nothing), (held.keys, held.values))
        row.fill(index, held.keys, held.values)
        if (mask := take_mask(module)) is not None:
            row.hide(index, mask)
        row.note_zero_channels(index)


def _run_solo(
    model: LocalModel,
    maker: Maker,
    tokens: torch.Tensor,
    wanted: Wanted,
    draws: Draws,
    _make_row: MakeRow,
) -> tuple[SoloKV, torch.Tensor]:
    fewer_bits = wanted.policy.serving == "quantised"
    press = None if fewer_bits else maker.press(wanted)
    cache = _quantised(model, wanted) if fewer_bits else DynamicCache()
    kv = SoloKV(model, cache, press, draws)
    positions = torch.arange(tokens.shape[1], device=model.device)[None]
    return kv, kv.forward(tokens, positions)[0]


def _quantised(model: LocalModel, wanted: Wanted) -> QuantizedCache:
    backend, bits = _backend(wanted.policy)
    return QuantizedCache(
        backend,
        model.network.config,
        nbits=bits,
        axis_key=0,
        axis_value=0,
        q_group_size=GROUP,
        residual_length=int(number_of(wanted.params["residual_length"])),
    )


def _backend(policy: Policy) -> tuple[str, int]:
    """`hqq_int4` is hqq with 4 bits."""
    backend, _, bits = policy.name.partition("_int")
    return backend, int(bits)
