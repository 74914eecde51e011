"""What is left of a text that is too long."""

from __future__ import annotations

from pytest_kvbench.tasks.tokenizers import Tokenizer


def shortened(tokenizer: Tokenizer, text: str, max_tokens: int) -> str:
    """`text` without its middle cut."""
    cut = tokenizer.middle_cut(text, max_tokens)
    return text if cut is None else text[: cut[0]] + text[cut[1] :]
