"""The loaded model: weights, tokenizer and chat template, and what they say about themselves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kvpress
import torch
from tokenizers import Tokenizer  # type: ignore[import-untyped]  # ships no types
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pytest_kvbench.errors import UsageError
from pytest_kvbench.server import ragged, shape

log = logging.getLogger(__name__)

_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on the largest position in a pass."""


@dataclass(frozen=True)
class LocalModel:
    """A causal language model ready to serve, and its tokenizer.

    `classes`: those of users that its policies may be, by the name they are asked by; `sources`:
    the digest of each.
    """

    network: PreTrainedModel
    tokenizer: Any
    device: torch.device
    context_length: int
    end_tokens: frozenset[int]
    classes: Mapping[str, object] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def backend(self) -> Tokenizer:
        """The `tokenizers` object: safe to use from several threads, unlike its wrapper."""
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        return backend

    @property
    def attention_layers(self) -> list[torch.nn.Module]:
        """The attention module of every layer."""
        return [layer.self_attn for layer in self.network.model.layers]

    @property
    def head_dim(self) -> int:
        """The width of a head's keys and values."""
        width: Any = self.attention_layers[0].head_dim
        return int(width)

    @property
    def gpus(self) -> list[int]:
        """The numbers of the GPUs that it is on."""
        devices = {weight.device for weight in self.network.parameters()}
        return sorted(device.index or 0 for device in devices if device.type == "cuda")

    @property
    def turns_by_length(self) -> bool:
        """Whether the longest row of a pass decides how the positions of all are told apart."""
        rope = getattr(self.network.config, "rope_parameters", None) or {}
        return rope.get("rope_type") in _BY_LENGTH

    def encode(self, text: str, *, special: bool = False) -> tuple[list[int], list[int]]:
        """Token ids of `text`, and the character at which each token ends.

        `special` adds what the tokenizer puts around a bare prompt (a BOS token, where it has one).
        """
        encoding = self.backend.encode(text, add_special_tokens=special)
        return encoding.ids, [end for _, end in encoding.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def render(self, messages: list[dict[str, str]]) -> str:
        """The chat template applied to `messages`, up to where the reply begins."""
        text: str = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return text


def load(
    folder: Path,
    dtype: str,
    device: str,
    threads: int,
    hub_id: str | None = None,
    *,
    spread: bool | None = None,
) -> LocalModel:
    """Load the model in `folder` for serving; kvpress looks trained parts up by its `hub_id`.

    `spread`: over all GPUs; None: where one is too small.

    Raises:
        UsageError: kvpress or the ragged cache cannot handle this model, or there is no GPU.
    """
    torch.set_num_threads(threads)
    kind, _, precision = dtype.partition("-")
    torch.set_float32_matmul_precision(precision or "highest")
    # stderr is the server's log.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # upstream
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU.", "Valid here: cpu.")
    ragged.register()
    context = context_of(AutoConfig.from_pretrained(folder))
    network = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, kind),
        attn_implementation=ragged.ATTENTION,
        # Weights go from the files to where they are used.
        device_map="auto" if _spreads(folder, kind, device, spread) else {"": device},
    )
    network.eval()  # type: ignore[no-untyped-call]  # upstream
    _note_untried(network)
    if hub_id is not None:
        network.config.name_or_path = hub_id
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LocalModel(
        network=network,
        tokenizer=tokenizer,
        device=network.device,  # of what tokens go into, where it is on several
        context_length=context,
        end_tokens=_end_tokens(network, tokenizer),
    )


def _spreads(folder: Path, dtype: str, device: str, told: bool | None) -> bool:
    """Whether weights are on all GPUs: where one has no room for caches beside them."""
    if device == "cpu" or torch.cuda.device_count() < 2 or told is not None:
        return bool(told)
    total = torch.cuda.get_device_properties(0).total_memory
    return shape.weights_of(folder, dtype) >= shape.MOST_WEIGHTS * total


def context_of(config: Any) -> int:
    """Tokens of a prompt and its reply: all that every layer attends to.

    Where all layers attend to the last tokens alone, these: up to there nothing slides.

    Raises:
        UsageError: only some layers do.
    """
    config = config.get_text_config()  # of a model that sees, too: it is asked about texts
    kinds = set(getattr(config, "layer_types", None) or ())
    window: int | None = getattr(config, "sliding_window", None)
    if kinds - {"full_attention"} and len(kinds) > 1:
        raise UsageError(
            f"{config.model_type}: some of its layers attend to the last {window} tokens alone, "
            "and have caches of their own kind, which are not served here.",
            "Valid: models whose layers all attend alike, as Llama, Qwen, Mistral and Phi.",
        )
    longest = int(config.max_position_embeddings)
    if window is None or kinds == {"full_attention"}:
        return longest
    return min(longest, window)


def _note_untried(network: PreTrainedModel) -> None:
    if not isinstance(network, kvpress.SUPPORTED_MODELS):
        log.warning("%s is not among the models kvpress is tested on", type(network).__name__)


def _end_tokens(network: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    configured = network.generation_config.eos_token_id if network.generation_config else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)
