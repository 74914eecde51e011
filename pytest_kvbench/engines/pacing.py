"""Requests and tokens a minute, as hosted servers allow them."""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from pytest_kvbench.wire import sound
from pytest_kvbench.wire.sound import Fields

CHARACTERS_A_TOKEN = 4
"""Of English; a server counts before it refuses, so a rough estimate is enough."""

_NUMBER = struct.Struct("d")
_ONE_AT_A_TIME = threading.Lock()
"""Among the threads of this process; a file's lock is among processes."""


class Pace:
    """Lets requests through so that no minute holds more of them, or of their tokens, than allowed.

    A tenth of a minute's worth may come at once; the rest flows evenly. For one event loop.

    Args:
        max_rpm: requests a minute; None: any number.
        max_tpm: tokens a minute, prompts and replies; None: any number.
        share: how many processes divide both, where they do not meet.
        meet_at: a file through which processes of this machine keep to both together.
    """

    def __init__(
        self,
        max_rpm: float | None,
        max_tpm: float | None,
        share: int = 1,
        meet_at: Path | None = None,
    ) -> None:
        self._requests, self._tokens = (
            None if most is None else _Flow(most / share, _number(meet_at, place))
            for place, most in enumerate((max_rpm, max_tpm))
        )

    async def wait(self, body: Fields) -> float:
        """Wait until a request with this body may be sent; how long, in seconds."""
        now = asyncio.get_running_loop().time()  # of one clock in all processes of a machine
        turn = now
        if self._requests is not None:
            turn = max(turn, self._requests.book(1.0, now))
        if self._tokens is not None:
            turn = max(turn, self._tokens.book(float(tokens_of(body)), now))
        if turn > now:
            await asyncio.sleep(turn - now)
        return max(0.0, turn - now)


def tokens_of(body: Fields) -> int:
    """About how many tokens a request will be counted for: its texts and the longest reply."""
    messages = sound.objects(body.get("messages"))
    characters = _characters(body.get("prompt"))
    characters += sum(_characters(message.get("content")) for message in messages)
    return characters // CHARACTERS_A_TOKEN + (sound.count(body.get("max_tokens")) or 0)


def _characters(content: object) -> int:
    """Of a text, of one that comes in parts, or of one in tokens; a message may have none."""
    if isinstance(content, list):
        parts = sum(_characters(part.get("text")) for part in sound.objects(content))
        return parts + CHARACTERS_A_TOKEN * sum(isinstance(part, int) for part in content)
    return len(content) if isinstance(content, str) else 0


_Number = Callable[[Callable[[float], float]], float]
"""Replaces a number by a function of it and returns the new one, as one step."""


class _Flow:
    """A bucket that leaks evenly, written as when it will have leaked out: the generic cell rate
    algorithm, whose whole state is one number, so that processes can share it.
    """

    def __init__(self, per_minute: float, empty_at: _Number) -> None:
        at_once = max(1.0, per_minute / 10)
        # What a minute holds: those at once, then the flow.
        self._per_s = max(per_minute - at_once, per_minute / 2) / 60
        self._ahead_s = at_once / self._per_s
        self._empty_at = empty_at

    def book(self, amount: float, now: float) -> float:
        """When so much may go, after all that was booked before."""
        empty_at = self._empty_at(lambda at: max(at, now) + amount / self._per_s)
        return empty_at - self._ahead_s


def _number(file: Path | None, place: int) -> _Number:
    return _private() if file is None else _shared(file, place)


def _private() -> _Number:
    kept = -math.inf

    def replace(make: Callable[[float], float]) -> float:
        nonlocal kept
        kept = make(kept)
        return kept

    return replace


def _shared(file: Path, place: int) -> _Number:
    at = place * _NUMBER.size

    def replace(make: Callable[[float], float]) -> float:
        with _ONE_AT_A_TIME:  # closing a file frees its process's locks, other threads' too
            opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX)
                made = make(_read(opened, at))
                os.pwrite(opened, _NUMBER.pack(made), at)
            finally:
                os.close(opened)
        return made

    return replace


def _read(opened: int, at: int) -> float:
    found = os.pread(opened, _NUMBER.size, at)
    number: float = _NUMBER.unpack(found)[0] if any(found) else -math.inf
    return number
