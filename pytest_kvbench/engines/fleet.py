"""The servers of an experiment's arms, brought up when asked and no more at once than allowed.

Where memory does not allow all of them, one serves every request that waits for it, is taken down,
and the next comes up. The control's server comes first where the others are measured against it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvbench.errors import EngineError
from pytest_kvbench.records import FULL_CACHE

if TYPE_CHECKING:
    from pytest_kvbench.engines.balance import Client


@dataclass(frozen=True)
class Up:
    """A server that is up: its client, and a token's measured share of its cache, if known."""

    http: Client
    size: float | None


@dataclass(frozen=True)
class Station:
    """A server to ask: its client, its measured share a token, and the control's."""

    http: Client
    size: float | None
    full: float | None


class NoControlError(EngineError):
    """The full cache's server does not come up: no arm can be held against it."""


class Fleet:
    """Servers by name; one that did not come up is not started again.

    Args:
        bring_up: starts one; called off the event loop.
        take_down: ends one; called off the event loop.
        at_once: how many may be up together.
        control_first: no other server comes up before the control's was measured.
    """

    def __init__(
        self,
        bring_up: Callable[[str], Up],
        take_down: Callable[[str], None],
        *,
        at_once: int,
        control_first: bool,
    ) -> None:
        self._bring_up = bring_up
        self._take_down = take_down
        self._at_once = at_once
        self._control_first = control_first
        self._up: dict[str, asyncio.Task[Up]] = {}
        self._lost: dict[str, asyncio.Task[Up]] = {}
        self._wanted: Counter[str] = Counter()
        self._turn = asyncio.Condition()
        self._full: asyncio.Task[float | None] | None = None

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Station]:
        """A server, up for as long as the block lasts; waits for its turn.

        Raises:
            NoControlError: the full cache's, which it is measured against, does not come up.
            EngineError: it does not.
        """
        full = await self._control_size() if name != FULL_CACHE else None
        async with self._held(name) as up:
            yield Station(up.http, up.size, up.size if name == FULL_CACHE else full)

    async def aclose(self) -> None:
        """Close connections; the servers end with the run."""
        starting = [*self._up.values(), *([self._full] if self._full else [])]
        for task in starting:
            task.cancel()
        ended = await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(up.http.aclose() for up in ended if isinstance(up, Up)))

    async def _control_size(self) -> float | None:
        if not self._control_first:
            return None
        if self._full is None:
            self._full = asyncio.ensure_future(self._measure_control())
        return await asyncio.shield(self._full)

    async def _measure_control(self) -> float | None:
        try:
            async with self._held(FULL_CACHE) as up:
                return up.size
        except EngineError as error:
            raise NoControlError(error.what, error.hint) from error

    @asynccontextmanager
    async def _held(self, name: str) -> AsyncIterator[Up]:
        self._wanted[name] += 1
        try:
            yield await asyncio.shield(await self._start(name))
        finally:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                await self._wake_waiting()

    async def _start(self, name: str) -> asyncio.Task[Up]:
        async with self._turn:
            await self._turn.wait_for(
                lambda: name in self._lost or name in self._up or self._has_room()
            )
            if name in self._lost:
                return self._lost[name]
            if name not in self._up:
                await self._make_room()
                self._up[name] = asyncio.ensure_future(asyncio.to_thread(self._bring_up, name))
            return self._up[name]

    def _has_room(self) -> bool:
        return len(self._up) < self._at_once or any(not self._wanted[name] for name in self._up)

    async def _make_room(self) -> None:
        while len(self._up) >= self._at_once:
            idle = next(name for name in self._up if not self._wanted[name])
            server = self._up.pop(idle)
            await asyncio.wait([server])
            if server.exception() is None:
                await server.result().http.aclose()
            else:
                self._lost[idle] = server
            await asyncio.to_thread(self._take_down, idle)

    async def _wake_waiting(self) -> None:
        async with self._turn:
            self._turn.notify_all()
