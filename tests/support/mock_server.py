"""A scripted stand-in for the embedded server: the same protocol over real HTTP, no model.

It answers a prompt that ends in `Say WORD` with WORD or with `no`, as `accuracy` decides for the
arm: deterministically, from a hash of prompt and arm.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.serving import Serving

Trouble = Callable[[int, dict[str, Any]], Response | None]
"""Given the number of the request and its body: a response to send instead, or None."""


@dataclass
class MockServer(Serving):
    """Use as a context manager; `base_url` is up inside."""

    accuracy: Callable[[str, float], float] = lambda policy, budget: 1.0
    achieved: Callable[[str, float], float] = lambda policy, budget: budget
    proves: bool = True
    """Whether it tells what it kept."""
    trouble: Trouble = lambda number, body: None
    word_of: Callable[[str], str] = lambda prompt: prompt.rsplit("Say ", 1)[1].split()[0]
    """The right answer to a prompt."""
    prompt_tokens: Callable[[str], int] = lambda prompt: len(prompt) // 4
    wrong: str = "no"
    arm: tuple[str, float] = ("none", 1.0)
    """What it serves where a request names no arm."""
    latency_s: float = 0.0
    queue_s: float = 0.0
    """How long it says that each request queued: very long, and no answer took any time."""
    aliases: list[str] = field(default_factory=list)
    """Other names under which it serves its model."""
    fingerprint: dict[str, str] = field(default_factory=lambda: {"weights": "mock"})
    asked: Counter[tuple[str, str, float, int]] = field(default_factory=Counter)
    """How often each (prompt, policy, budget, seed) was asked for."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the last request."""
    posts: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]

    @property
    def controls(self) -> list[int]:
        """How often each control was asked for."""
        return [n for (_, policy, _, _), n in self.asked.items() if policy == "none"]

    async def _tokenize(self, request: Request) -> Response:
        await asyncio.sleep(self.latency_s)
        body = await request.json()
        return JSONResponse({"tokens": body["content"].split()})

    async def _models(self, request: Request) -> Response:
        entry = {"id": "mock", "aliases": self.aliases, "fingerprint": self.fingerprint}
        return JSONResponse({"object": "list", "data": [entry]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.posts += 1
        self.headers = request.headers
        instead = self.trouble(self.posts, body)
        if instead is not None:
            return instead
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        return JSONResponse(self.completion(body))

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request's body."""
        prompt, (policy, budget) = prompt_in(body), self.arm
        arms = body.get("kv") or [{"policy": policy, "budget": budget}]
        return {
            "choices": [
                self._choice(index, prompt, arm, body.get("seed", 0))
                for index, arm in enumerate(arms)
            ],
            "usage": {
                "prompt_tokens": self.prompt_tokens(prompt),
                "completion_tokens": 1,
            },
            "timings": {"queue_s": self.queue_s},
        }

    def _choice(self, index: int, prompt: str, arm: dict[str, Any], seed: int) -> dict[str, Any]:
        policy, budget = arm["policy"], arm["budget"]
        self.asked[prompt, policy, budget, seed] += 1
        word = self.word_of(prompt)
        # One draw per prompt for all arms: a lower accuracy loses a superset, as budgets do.
        drawn = int(hashlib.sha256(f"{prompt}{seed}".encode()).hexdigest()[:8], 16) / 16**8
        achieved = self.achieved(policy, budget)
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": word if drawn < self.accuracy(policy, budget) else self.wrong,
            },
            "finish_reason": "stop",
            "completion_tokens": 1,
            "kv": {
                "policy": policy,
                "budget": budget,
                **(_proof(achieved) if self.proves else {}),
            },
        }


def prompt_in(body: dict[str, Any]) -> str:
    """The whole prompt of a request's body."""
    return "".join(map(_text, body["messages"]))


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _proof(achieved: float) -> dict[str, float]:
    kept = int(1000 * achieved)
    return {"achieved": achieved, "kept_bytes": kept, "full_bytes": 1000, "kept_tokens": 10.0}
