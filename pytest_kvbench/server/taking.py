"""One arm's share of a pass that many take part in: what its press keeps of each layer."""

from __future__ import annotations

from typing import Any

import kvpress
import torch

from pytest_kvbench.server.attention import Draws, take_mask
from pytest_kvbench.server.making import PolicyError, Wanted, failure
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.reuse import Layer


class Taker:
    """What one arm takes of each layer; an arm whose press fails takes nothing more.

    `press` is None where everything is kept.
    """

    def __init__(self, wanted: Wanted, press: Any, row: RowKV, draws: Draws) -> None:
        self.press = press
        self.row = row
        self.error: PolicyError | None = None
        self.wanted = wanted
        self._draws = draws
        # Only selects: it gives back copies, and nothing it is shown is changed.
        self._only_selects = press is None or _only_selects(press)

    @property
    def shares_scores(self) -> bool:
        """Whether its scores are those of any budget."""
        return self._only_selects and not self.wanted.policy.score_uses_budget

    def take(
        self, module: Any, layer: Layer, attentions: torch.Tensor | None, shown: dict[str, Any]
    ) -> None:
        """Take a layer, as soon as it is done."""
        if self.press is None:
            self.row.fill(module.layer_idx, layer.keys, layer.values)
        elif self.error is None:
            try:
                self._compress(module, layer, attentions, shown)
            except torch.OutOfMemoryError:
                raise  # no fault of the press: the whole request must hear of it
            except Exception as error:  # a press is anybody's program; other arms go on
                self.error = failure(self.wanted.policy, error, self.wanted.params)
            finally:
                module.masked_key_indices = None

    def settle(self, tokens: int) -> None:
        """Let what comes after so many tokens stand where it must, once all layers are taken."""
        if self.error is None:
            self.row.shift = shift_of(self.press, self.row, tokens)

    def _compress(
        self, module: Any, layer: Layer, attentions: torch.Tensor | None, shown: dict[str, Any]
    ) -> None:
        if self._only_selects:
            kept = self._kept(module, layer, attentions, shown)
            self.row.fill(module.layer_idx, *kept)
            return
        own = Layer(layer.hidden.clone(), layer.keys.clone(), layer.values.clone())
        kept = self._kept(module, own, attentions, {**shown, "hidden_states": own.hidden})
        check_kept(layer, kept)
        self.row.fill(module.layer_idx, *kept)
        if (mask := take_mask(module)) is not None:
            self.row.hide(module.layer_idx, mask)
        self.row.note_zero_channels(module.layer_idx)

    def _kept(
        self, module: Any, layer: Layer, attentions: torch.Tensor | None, shown: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with self._draws.going_on():
            keys, values = self.press.compress(
                module, layer.hidden, layer.keys, layer.values, attentions, shown
            )
        return keys, values


def _only_selects(press: Any) -> bool:
    """Whether it is kvpress's own and selects as all of its scorers do."""
    selects = type(press).compress in (
        kvpress.ScorerPress.compress,
        kvpress.PyramidKVPress.compress,
    )
    return selects and type(press).__module__.startswith("kvpress.")


def shift_of(press: Any, row: RowKV, tokens: int) -> int:
    """How far new tokens stand before the places that they had behind so many tokens.

    As kvpress's pipeline has it, which asks the press alone and none that it wraps: those whose
    keys were turned to positions without gaps, or lie behind tokens of the press's own, go on
    from what is kept.
    """
    adds_tokens = isinstance(press, getattr(kvpress, "RestoreKVPress", ()))
    goes_on = adds_tokens or getattr(press, "rerotate_keys", False)
    return tokens - row.lengths[0] if goes_on else 0


def check_kept(layer: Layer, kept: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Refuse what is no part of a layer's cache.

    Raises:
        ValueError: saying in what it differs.
    """
    keys, values = kept
    for name, whole, part in (("keys", layer.keys, keys), ("values", layer.values, values)):
        if not isinstance(part, torch.Tensor) or part.dim() != 4:
            raise ValueError(f"it returned {name} that are no tensor of 4 dimensions")
        fits = part.shape[:2] == whole.shape[:2] and part.shape[3] == whole.shape[3]
        if not fits or part.dtype != whole.dtype:
            raise ValueError(
                f"it returned {name} of {tuple(part.shape)} {part.dtype}, given "
                f"{tuple(whole.shape)} {whole.dtype}"
            )
    if keys.shape[2] != values.shape[2]:
        raise ValueError(f"it returned {keys.shape[2]} keys and {values.shape[2]} values")
    if not keys.shape[2]:
        raise ValueError("it returned no token")
