"""One real server process for the whole session, and kvpress used directly beside it."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Server:
    """A running server and a client for it."""

    process: subprocess.Popen[bytes]
    address: dict[str, Any]
    http: httpx.Client

    @property
    def base_url(self) -> str:
        return self.address["base_url"]

    def chat(self, content: Any, **more: Any) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
        return self.post("/v1/chat/completions", {**body, "temperature": 0, **more})

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http.post(path, json=body)


def launch(folder: Path, *more: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a server and wait until it is ready; its log is `folder/server.log`."""
    address = folder / "address.json"
    command = [sys.executable, "-m", "pytest_kvbench.server", "--model", MODEL]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--address-file", address, "--watch-pid", str(os.getpid()), *more],
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 180
    while not address.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start:\n{(folder / 'server.log').read_text()}")
        time.sleep(0.1)
    return process, json.loads(address.read_text())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    process, address = launch(tmp_path_factory.mktemp("server"))
    with httpx.Client(base_url=address["base_url"].removesuffix("/v1"), timeout=300) as http:
        yield Server(process, address, http)
    process.kill()
    process.wait(60)


def prompt_parts(index: int, chars: int = 900) -> tuple[str, str]:
    """A context of prose with a needle in it, and the question about the needle."""
    topics = pydoc_data.topics.topics
    prose = re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))
    text = prose[index * chars : (index + 1) * chars]
    middle = text.index(" ", chars * (index % 5 + 1) // 7)
    needle = f" The magic number of Berlin is {71_310 + index * 397}."
    question = "\n\nWhat is the magic number of Berlin? Answer with the number only."
    return text[:middle] + needle + text[middle:], question


def parts(index: int, chars: int = 900) -> list[dict[str, str]]:
    """The same as the text parts of a message."""
    return [{"type": "text", "text": text} for text in prompt_parts(index, chars)]


@dataclass(frozen=True)
class Direct:
    """kvpress used as its own documentation does, on a model with stock attention."""

    model: Any
    tokenizer: Any

    def answer(
        self, press: Any, context: list[int], question: list[int], new_tokens: int
    ) -> tuple[str, int]:
        """The greedy answer and the bytes kept of the prompt's cache.

        An empty question means that the press sees the whole prompt.
        """
        import contextlib

        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        with torch.inference_mode():
            with press(self.model) if press is not None else contextlib.nullcontext():
                out = self._ask(context, cache, 0)
            if question:
                out = self._ask(question, cache, len(context))
            kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
            new = [int(out.logits[0, -1].argmax())]
            end = self.model.generation_config.eos_token_id
            while len(new) < new_tokens and new[-1] != end:
                at = len(context) + len(question) + len(new) - 1
                out = self._ask(new[-1:], cache, at)
                new.append(int(out.logits[0, -1].argmax()))
        return self.tokenizer.decode(new, skip_special_tokens=True), kept

    def _ask(self, ids: list[int], cache: Any, start: int) -> Any:
        import torch

        positions = torch.arange(start, start + len(ids))[None]
        return self.model(
            torch.tensor([ids]), past_key_values=cache, position_ids=positions, logits_to_keep=1
        )

    def ids(self, context: str, question: str) -> list[int]:
        """The whole chat prompt in tokens."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": context + question}],
            add_generation_prompt=True,
            tokenize=False,
        )
        return self.tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture(scope="session")
def direct() -> Direct:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_kvbench.server import weights

    folder = weights.materialise(weights.resolve(MODEL))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.config._attn_implementation == "sdpa"
    return Direct(model.eval(), AutoTokenizer.from_pretrained(folder))
