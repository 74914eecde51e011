"""Requests and tokens a minute, as hosted servers allow them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiolimiter import AsyncLimiter

CHARACTERS_A_TOKEN = 4
"""Of English; a server counts before it refuses, so a rough estimate is enough."""


class Pace:
    """Lets requests through so that no minute holds more of them, or of their tokens, than allowed.

    A tenth of a minute's worth may come at once; the rest flows evenly. For one event loop.

    Args:
        max_rpm: requests a minute; None: any number.
        max_tpm: tokens a minute, prompts and replies; None: any number.
        share: how many processes of this run share both.
    """

    def __init__(self, max_rpm: float | None, max_tpm: float | None, share: int = 1) -> None:
        self._requests = _limiter(max_rpm, share)
        self._tokens = _limiter(max_tpm, share)
        self._turn = asyncio.Lock()

    async def wait(self, body: Mapping[str, Any]) -> None:
        """Wait until a request with this body may be sent."""
        async with self._turn:  # one after another: parts of two would delay both
            if self._requests is not None:
                await self._requests.acquire()
            left = float(tokens_of(body)) if self._tokens is not None else 0.0
            while self._tokens is not None and left > 0:
                some = min(left, self._tokens.max_rate)
                await self._tokens.acquire(some)
                left -= some


def tokens_of(body: Mapping[str, Any]) -> int:
    """About how many tokens a request will be counted for: its texts and the longest reply."""
    texts = [body.get("prompt") or "", *(m["content"] for m in body.get("messages", ()))]
    characters = sum(len(text if isinstance(text, str) else str(text)) for text in texts)
    return characters // CHARACTERS_A_TOKEN + int(body.get("max_tokens") or 0)


def _limiter(per_minute: float | None, share: int) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    own = per_minute / share
    at_once = max(1.0, own / 10)
    flow = max(own - at_once, own / 2)  # what a minute holds: those at once, then the flow
    return AsyncLimiter(at_once, time_period=60 * at_once / flow)
