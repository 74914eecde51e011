"""`python -m pytest_kvbench.server.convert FILE.gguf FOLDER`: GGUF to safetensors, once.

Weights go through transformers' own dequantisation, in float32. The tokenizer is built from the
file's vocabulary and merges: what transformers derives from a GGUF gets another model's class, a
wrong end token and no digit splitting, and other servers read it as something else again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import (  # type: ignore[import-untyped]  # upstream ships no types
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

_CONTROL, _USER_DEFINED = 3, 4  # GGUF token types


def convert(source: Path, target: Path) -> None:
    """Write `source` as config.json, model.safetensors, tokenizer.json and chat template."""
    fields = {name: field.contents() for name, field in gguf.GGUFReader(source).fields.items()}
    _tokenizer(source, fields).save_pretrained(target)
    _name_class(target / "tokenizer_config.json")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    model.generation_config.eos_token_id = fields.get("tokenizer.ggml.eos_token_id")
    model.save_pretrained(target)


def _name_class(config: Path) -> None:
    """Use the class name that older transformers know too: vLLM may serve the same folder."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _tokenizer(source: Path, fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    backend = _byte_level_bpe(fields) or _derived(source)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    tokens = fields["tokenizer.ggml.tokens"]
    ids = {name: fields.get(f"tokenizer.ggml.{field}_token_id") for name, field in names.items()}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # upstream
        tokenizer_object=backend,
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=fields[f"{fields['general.architecture']}.context_length"],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": tokens[index] for name, index in ids.items() if index is not None},
    )


def _byte_level_bpe(fields: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer as the file itself describes it, for the pre-tokenizers we know."""
    splitters = _splitters(fields.get("tokenizer.ggml.pre", "default"))
    if fields["tokenizer.ggml.model"] != "gpt2" or splitters is None:
        return None
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special_tokens(tokenizer, tokens, fields)
    return tokenizer


def _splitters(name: str) -> list[Any] | None:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    by_name = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level],
        "gpt-2": [byte_level],
    }
    return by_name.get(name)


def _add_special_tokens(tokenizer: Tokenizer, tokens: list[str], fields: dict[str, Any]) -> None:
    for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            special = kind == _CONTROL
            tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
    if fields.get("tokenizer.ggml.add_bos_token"):
        index = fields["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[index]} $A", special_tokens=[(tokens[index], index)]
        )


def _derived(source: Path) -> Tokenizer:
    backend: Tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name
    ).backend_tokenizer
    return backend


if __name__ == "__main__":
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # upstream
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
