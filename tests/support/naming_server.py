"""Servers that name the likeliest tokens, in the documented forms of vLLM and llama.cpp: no model.

The next token's distribution follows from the last two tokens, and `noise` moves it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_softmax
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.serving import Serving

VOCABULARY, END = 40, 2


def logs(ids: Sequence[int], noise: float) -> np.ndarray:
    """Log-probabilities (vocabulary,) after these tokens."""
    plain = 2.0 * _drawn((0, *ids[-2:]))
    moved = plain + noise * _drawn((1, *ids)) if noise else plain
    moved[END] += 0.05 * len(ids)  # a reply ends
    found: np.ndarray = log_softmax(moved)
    return found


def _drawn(seed: tuple[int, ...]) -> np.ndarray:
    digest = hashlib.sha256(repr(seed).encode()).digest()
    return np.random.default_rng(list(digest)).normal(size=VOCABULARY)


def tokens_of(text: str) -> list[int]:
    return [3 + len(word) % (VOCABULARY - 3) for word in text.split()]


@dataclass
class NamingServer(Serving):
    """One server; use as a context manager, `base_url` is up inside. `kind`: vllm or llamacpp.

    `reads_cache`: whether a pass over a prompt is moved by `noise` at all.
    """

    kind: str = "vllm"
    noise: float = 0.0
    reads_cache: bool = True
    special: int = 0
    """Tokens that its chat adds, and `/tokenize` does not."""
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def routes(self) -> list[Route]:
        return [Route("/{path:path}", self._serve, methods=["GET", "POST"])]

    async def _serve(self, request: Request) -> Response:
        body, path = await request.json(), request.url.path
        self.paths.append(path)
        self.bodies.append(body)
        said = {
            "/tokenize": self._tokenize,
            "/apply-template": lambda body: {"prompt": _chat(body["messages"])},
            "/completion": self._next,
            "/v1/completions": self._force if self.kind == "vllm" else self._complete,
            "/v1/chat/completions": self._complete,
        }
        return JSONResponse(said[path](body))

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        text = _chat(body["messages"]) if "messages" in body else body.get("content")
        return {"tokens": tokens_of(text or body["prompt"])}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        text = _chat(body["messages"]) if "messages" in body else body["prompt"]
        prompt = tokens_of(text) + [7] * self.special
        reply: list[int] = []
        while len(reply) < body["max_tokens"] and reply[-1:] != [END]:
            reply.append(int(logs(prompt + reply, self.noise).argmax()))
        content = [
            self._entry(token, logs(prompt + reply[:at], self.noise), body["top_logprobs"])
            for at, token in enumerate(reply)
        ]
        words = "".join(f"w{token} " for token in reply if token != END)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": words},
            "finish_reason": "stop" if reply[-1] == END else "length",
            "logprobs": {"content": content},
        }
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(reply)}
        return {"choices": [choice], "usage": usage}

    def _entry(self, token: int, at: np.ndarray, k: int) -> dict[str, Any]:
        best = [int(one) for one in np.argsort(-at, kind="stable")[:k]]
        return {
            **self._named(token, at),
            "top_logprobs": [self._named(one, at) for one in best],
        }

    def _named(self, token: int, at: np.ndarray) -> dict[str, Any]:
        text = "" if token == END else f"w{token} "
        if self.kind == "llamacpp":
            return {
                "id": token,
                "token": text,
                "bytes": [*text.encode()],
                "logprob": float(at[token]),
            }
        end = text or "<|im_end|>"
        return {
            "token": f"token_id:{token}",
            "bytes": [*end.encode()],
            "logprob": float(at[token]),
        }

    def _next(self, body: dict[str, Any]) -> dict[str, Any]:
        at = logs(body["prompt"], self.noise)
        entry = self._entry(int(at.argmax()), at, body["n_probs"])
        return {"content": "", "completion_probabilities": [entry]}

    def _force(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, noise = body["prompt"], self.noise if self.reads_cache else 0.0
        entries = [None, *(self._prompted(ids, at, noise, body) for at in range(1, len(ids)))]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": entries}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}

    def _prompted(
        self, ids: list[int], at: int, noise: float, body: dict[str, Any]
    ) -> dict[str, Any]:
        here = logs(ids[:at], noise)
        ranked = [int(one) for one in np.argsort(-here, kind="stable")]
        named = dict.fromkeys([ids[at], *ranked[: body["prompt_logprobs"]]])
        return {
            str(one): {"logprob": float(here[one]), "rank": ranked.index(one) + 1} for one in named
        }


@functools.cache
def _words(content: str) -> str:
    return f"<user> {content} <assistant>"


def _chat(messages: list[dict[str, Any]]) -> str:
    return _words(messages[-1]["content"])
