"""Token counts from a running server: llama.cpp, vLLM and the embedded one answer `/tokenize`.

For models whose `tokenizer.json` is not on this machine. Exact, but a request per text: prefer the
model's folder where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import httpx

from pytest_kvbench.errors import EngineError
from pytest_kvbench.network import client_of
from pytest_kvbench.tasks.tokenizers import Truncating

PROBE = "The lake lies still: 湖水平静, 12345 naïve  words.\n"
FIELDS = ("content", "prompt")
"""What servers call the text: llama.cpp and the embedded one `content`, vLLM `prompt`.

In this order: llama.cpp answers an unknown field with no tokens at all, vLLM with an error.
"""


@dataclass(frozen=True)
class ServedTokenizer(Truncating):
    """The serving model's own tokenizer, behind its server.

    Args:
        url: of `/tokenize`.
        model: the served name, which vLLM asks for.
        text_field: one of `FIELDS`.
        name: `served:` and a hash of how a fixed text is tokenized.
    """

    url: str
    model: str
    text_field: str
    name: str
    client: httpx.Client = field(repr=False, compare=False)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, a request each."""
        return [len(self._tokens(text)) for text in texts]

    def middle_cut(self, text: str, max_tokens: int) -> tuple[int, int] | None:
        """Span between the kept ends; each is the longest with half of the tokens, by bisection."""
        if len(self._tokens(text)) <= max_tokens:
            return None
        half, size = max_tokens // 2, len(text)
        head = self._longest(half, size, lambda n: text[:n])
        tail = self._longest(half, size - head, lambda n: text[size - n :])
        return head, size - tail

    def _longest(self, tokens: int, size: int, part: Any) -> int:
        low, high = 0, size
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._tokens(part(middle))) <= tokens:
                low = middle
            else:
                high = middle - 1
        return low

    def _tokens(self, text: str) -> list[Any]:
        return _ask(self.client, self.url, self.model, self.text_field, text) if text else []


def served_tokenizer(
    base_url: str, model: str, headers: Mapping[str, str] = MappingProxyType({})
) -> ServedTokenizer:
    """The tokenizer behind an OpenAI-style `base_url` (with or without `/v1`).

    Raises:
        EngineError: the server is not there or has no `/tokenize` that we understand.
    """
    url = f"{base_url.rstrip('/').removesuffix('/v1')}/tokenize"
    client = client_of(url, timeout_s=60, headers=headers)
    for text_field in FIELDS:
        try:
            tokens = _ask(client, url, model, text_field, PROBE)
        except EngineError:
            continue
        if tokens:
            name = f"served:{hashlib.sha256(repr(tokens).encode()).hexdigest()[:12]}"
            return ServedTokenizer(url, model, text_field, name, client)
    raise EngineError(
        f"no tokenizer behind {url}",
        "name one: tokenizer: hf:PATH_OR_ID, tiktoken:NAME or approximate",
    )


def _ask(client: httpx.Client, url: str, model: str, text_field: str, text: str) -> list[Any]:
    # Each server reads the one switch it knows: no special tokens.
    body = {"model": model, text_field: text, "add_special_tokens": False, "add_special": False}
    try:
        reply = client.post(url, json=body).raise_for_status().json()
        tokens: list[Any] = reply["tokens"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{url} did not count tokens: {error}", "is the server up?") from error
    return tokens
