"""When a server is not asked any more: it refuses us, or fails every request alike.

Refused: before it has answered anything, it says of a request what holds for all of them: a wrong
key, model or path, a redirect elsewhere. One such reply ends the engine. Once something was
answered, it is one failed request: key, model and path were right.

Failing: of the first requests `FEW` failed with the same words, numbers aside, and none was
answered, nor is one that was sent before them still under way. The next are not sent, but those
shorter than all that failed: what only long prompts meet stops no short one, and the first answer
takes it all back. A prompt beyond the context, or one that was moderated, never counts; a limit a
minute (429), or a server that may still be loading (502, 503), is given that minute. Later on, only
a key or a credit that has run out stops a server: `FEW` times in a row.

What is not sent is a failure like any other: the next run asks it again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pytest_kvbench.engines.base import NotAskedError, RequestFailedError
from pytest_kvbench.errors import EngineError, RefusedError
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.network import REDIRECTS

FEW = 5
"""Requests that fail alike before a server is taken for one that fails all."""

_ALONE_S = 5.0
"""How long the first request goes alone: a refusal takes less."""

_MINUTE_S = 60.0
_MAY_PASS = frozenset({429, 502, 503})
_WRONG_KEY = 401
_KEY = frozenset({_WRONG_KEY, 403})
_CREDIT = 402
_PATH = frozenset({404, 405, 501})
_OF_ONE_PROMPT = re.compile(
    r"context|too (long|large)|max\w*[ _](model|prompt|input|length|tokens)|tokens? limit|"
    r"moderat|flagged|content (policy|filter|management)|safety",
    re.IGNORECASE,
)
"""Words of an error that concerns one prompt alone."""
_MODEL = re.compile(
    r"(unknown|invalid|no such|unsupported|not a valid) model|"
    r"\bmodel\b.{0,100}(not found|not exist|not served|not available)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass
class _Alike:
    """Requests that failed with the same words: `before` is the number of the next one then."""

    before: int
    since: float
    patience_s: float
    count: int = 0
    shortest: float = float("inf")


class Breaker:
    """Watches the requests to one server, in one event loop.

    Args:
        base_url: the server's.
        has_key: whether it is sent a key; None where its kind never is.
        alone: whether the first request goes alone, for a few seconds: of a wrong address.
    """

    def __init__(self, base_url: str, *, has_key: bool | None = False, alone: bool = False) -> None:
        self._base_url = base_url
        self._has_key = has_key
        self._next = 0
        self._in_flight: set[int] = set()
        self._answered = False
        self._open = asyncio.Event()
        self._first = alone
        if not alone:
            self._open.set()
        self._refused: tuple[str, str] | None = None
        self._alike: dict[tuple[int | None, str], _Alike] = {}
        self._shut_out = 0

    @asynccontextmanager
    async def watch(self, size: int, path: str, model: object) -> AsyncIterator[None]:
        """Around one request of `size` tokens, its tries together.

        Raises:
            NotAskedError: the server fails all; it is not to be sent.
            RefusedError: this request was refused as every other would be.
            EngineError: an earlier one was.
        """
        await self._turn()
        self._refuse(size)
        number = self._next
        self._next += 1
        self._in_flight.add(number)
        try:
            yield
            self._note_answer()
        except RequestFailedError as failed:
            self._note(failed, size, path, model)
            raise
        finally:
            self._in_flight.discard(number)
            self._open.set()

    async def _turn(self) -> None:
        if self._first or self._open.is_set():
            self._first = False
            return
        try:
            async with asyncio.timeout(_ALONE_S):
                await self._open.wait()
        except TimeoutError:
            self._open.set()

    def _refuse(self, size: int) -> None:
        if self._refused is not None:
            raise EngineError(*self._refused)
        if self._shut_out >= FEW:
            raise NotAskedError(f"not asked: the server refused {FEW} requests one after the other")
        if any(self._is_open(alike) and size >= alike.shortest for alike in self._alike.values()):
            raise NotAskedError(
                f"not asked: the server failed {FEW} requests alike and answered none"
            )

    def _is_open(self, alike: _Alike) -> bool:
        earlier = any(number < alike.before for number in self._in_flight)
        passed = time.monotonic() - alike.since >= alike.patience_s
        return alike.count >= FEW and passed and not earlier

    def _note_answer(self) -> None:
        self._answered = True
        self._alike.clear()
        self._shut_out = 0

    def _note(self, failed: RequestFailedError, size: int, path: str, model: object) -> None:
        message = str(failed)
        if self._answered:
            self._shut_out = self._shut_out + 1 if failed.status in {_WRONG_KEY, _CREDIT} else 0
            return
        if hint := self._hint(failed.status, message, path, model):
            shortened = sound.message(message).rstrip(".")
            self._refused = (f"{shortened}: {self._base_url} refuses every request", hint)
            raise RefusedError(*self._refused)
        if not self._is_of_one_prompt(failed.status, message):
            self._count(failed.status, message, size)

    @staticmethod
    def _is_of_one_prompt(status: int | None, message: str) -> bool:
        """Whether it is about this one prompt; a page that is not there may say anything."""
        return status not in _PATH | {_WRONG_KEY} and bool(_OF_ONE_PROMPT.search(message))

    def _count(self, status: int | None, message: str, size: int) -> None:
        words = (status, sound.words(message))
        patience_s = _MINUTE_S if status in _MAY_PASS else 0.0
        alike = self._alike.setdefault(words, _Alike(self._next, time.monotonic(), patience_s))
        alike.count += 1
        alike.shortest = min(alike.shortest, size)

    def _hint(self, status: int | None, message: str, path: str, model: object) -> str:
        """What the user can do about a refusal of all requests; empty where it is none."""
        if status in REDIRECTS:
            return "name the address that answers itself: engine.base_url or engine.endpoints"
        if status is None or status < 400 or self._is_of_one_prompt(status, message):
            return ""
        if _MODEL.search(message) and status < 500:
            return f"mend engine.model: it is {model!r}"
        if status in _KEY:
            return f"{self._key_hint}; or mend engine.base_url"
        if status == _CREDIT:
            return "what was answered is kept; pay there, or take another key"
        return self._path_hint(path) if status in _PATH else ""

    @property
    def _key_hint(self) -> str:
        if self._has_key is None:
            return "an embedded server needs no key, and is sent none"
        if self._has_key:
            return (
                "mend the key: KVBENCH_API_KEY, OPENAI_API_KEY, or the variable that "
                "engine.api_key_env names"
            )
        return "no key was sent: set KVBENCH_API_KEY, or name a variable in engine.api_key_env"

    def _path_hint(self, path: str) -> str:
        versioned = re.search(r"/v\d+\w*(/|$)", self._base_url)
        lacking = "" if versioned else f"; most servers want {self._base_url}/v1"
        return f"mend engine.base_url: {self._base_url}{path} was asked{lacking}"
