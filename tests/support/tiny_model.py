"""A model of random weights that answers within a millisecond: what the embedded engine serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from pytest_kvbench.server import ragged
from pytest_kvbench.server.model import LocalModel

CONTEXT = 256
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(_ALPHABET) + 1,
    "max_position_embeddings": CONTEXT,
}
_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if messages[0]['role'] == 'nobody' %}{{ raise_exception('nobody may not speak') }}"
    "{% elif messages[0]['role'] == 'sum' %}{{ 1 + messages[0]['content'] }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tiny_model(device: str = "cpu", attention: str = ragged.ATTENTION) -> LocalModel:
    """Three layers, two key heads for four query heads, a token a byte."""
    return tiny_of(LlamaConfig(**SIZES, attn_implementation=attention), device)


def tiny_of(
    config: PreTrainedConfig,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    context: int = CONTEXT,
) -> LocalModel:
    """A model of any kind of transformers', which has read nothing."""
    ragged.register()
    config._attn_implementation = config._attn_implementation or ragged.ATTENTION
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval().to(torch.device(device), dtype)
    return LocalModel(network, _tokenizer(_ALPHABET), torch.device(device), context, frozenset())


def _tokenizer(alphabet: list[str]) -> PreTrainedTokenizerFast:
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<end>"])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", chat_template=_TEMPLATE
    )


def longrope(angles: int) -> dict[str, object]:
    """Angles that change for all rows once the longest has more than 100 tokens."""
    factors = [1.0 + n for n in range(angles)]
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": factors[::-1],
        "long_factor": factors,
        "original_max_position_embeddings": 100,
    }
