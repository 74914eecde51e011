"""Several servers that answer alike, as one: each request goes where the fewest wait.

A server that is gone is left out, its requests go to the others, and it is taken back when it
answers again with the fingerprint it had. One that refuses every request is left out for good, with
a warning. Only when none is left is the engine gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_kvbench.engines.base import NotAskedError, Reply
from pytest_kvbench.errors import EngineError, KvbenchError, RefusedError, UsageError
from pytest_kvbench.wire.sound import Fields

CHECK_EVERY_S = 5.0


class Client(Protocol):
    """What `Http` and `Balanced` have in common."""

    async def post(self, path: str, body: Fields, *, stream: bool = False) -> Reply:
        """See `Http.post`."""

    async def ask(self, path: str, body: Fields) -> Reply:
        """See `Http.ask`."""

    async def aclose(self) -> None:
        """See `Http.aclose`."""


@dataclass
class _Endpoint:
    """One of the servers; `client` is None while it is left out."""

    base_url: str
    client: Client | None
    waiting: int = 0
    refuses: bool = False


@dataclass
class Balanced:
    """A client of several servers.

    Args:
        base_urls: where they are.
        connect: makes a client of one.
        is_well: whether a server answers, and is still the one it was; may raise a KvbenchError
            instead of saying no. Called off the event loop.
    """

    base_urls: Sequence[str]
    connect: Callable[[str], Client]
    is_well: Callable[[str], bool]
    _endpoints: list[_Endpoint] = field(init=False)
    _watch: asyncio.Task[None] | None = field(default=None, init=False)
    _problem: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._endpoints = [_Endpoint(url, self.connect(url)) for url in self.base_urls]

    async def post(self, path: str, body: Fields, *, stream: bool = False) -> Reply:
        """As `Http.post`, on whichever server has the fewest requests.

        Raises:
            RequestFailedError: this request has no reply, or no server is to be sent it.
            EngineError: all servers are gone, or refuse every request.
        """
        return await self._at_one(lambda client: client.post(path, body, stream=stream))

    async def ask(self, path: str, body: Fields) -> Reply:
        """As `Http.ask`, and `post`."""
        return await self._at_one(lambda client: client.ask(path, body))

    async def _at_one(self, send: Callable[[Client], Awaitable[Reply]]) -> Reply:
        last: EngineError | NotAskedError | None = None
        passed: list[_Endpoint] = []
        while (endpoint := self._least_busy(passed)) is not None:
            client = endpoint.client
            assert client is not None  # noqa: S101 -- `_least_busy` picks one that is not left out
            endpoint.waiting += 1
            try:
                return await send(client)
            except EngineError as gone:
                last = gone
                await self._leave_out(endpoint, client, gone)
            except NotAskedError as stopped:
                last = stopped
                passed.append(endpoint)
            finally:
                endpoint.waiting -= 1
        raise last or EngineError(
            f"no server is left of {', '.join(self.base_urls)}: {self._problem}",
            "what was answered is kept; start them and run again",
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await asyncio.gather(*(e.client.aclose() for e in self._endpoints if e.client is not None))

    def _least_busy(self, passed: Sequence[_Endpoint]) -> _Endpoint | None:
        able = [one for one in self._endpoints if one.client is not None and one not in passed]
        return min(able, key=lambda endpoint: endpoint.waiting, default=None)

    async def _leave_out(self, endpoint: _Endpoint, client: Client, problem: EngineError) -> None:
        if endpoint.client is not client:  # not the first of its requests to notice
            return
        endpoint.client, endpoint.refuses = None, isinstance(problem, RefusedError)
        self._problem = problem.what
        await client.aclose()
        if endpoint.refuses:
            with contextlib.suppress(UserWarning):  # where warnings are errors, too
                warnings.warn(f"{problem.what}: it is left out", stacklevel=2)
        elif self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._take_back())

    def _out(self) -> list[_Endpoint]:
        return [one for one in self._endpoints if one.client is None and not one.refuses]

    async def _take_back(self) -> None:
        """Look after those left out, until there are none."""
        while out := self._out():
            await asyncio.sleep(CHECK_EVERY_S)
            for endpoint in out:
                with contextlib.suppress(KvbenchError):
                    if await asyncio.to_thread(self.is_well, endpoint.base_url):
                        endpoint.client = self.connect(endpoint.base_url)


def alike(urls: Sequence[str], facts_of: Callable[[str], dict[str, str]]) -> dict[str, str]:
    """The facts of several servers, where all give the same.

    Raises:
        UsageError: they differ; the message names the first difference.
        EngineError: one does not answer.
    """
    first = facts_of(urls[0])
    for url in urls[1:]:
        other = facts_of(url)
        differ = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
        if differ:
            name = differ[0]
            raise UsageError(
                f"engine.base_url: {urls[0]} and {url} are not the same server: {name} is "
                f"{first.get(name)!r} and {other.get(name)!r}",
                "list servers that answer alike; one per arm goes under engine.endpoints",
            )
    return first
