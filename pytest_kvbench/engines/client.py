"""HTTP to an OpenAI-compatible server: bounded, retried, with a deadline; a cut reply is none.

On aiohttp: a request costs a fifth of httpx's processor time (0.4 against 2.1 ms, one client per
request in flight), and at 32 in flight and 20 ms that client was the bottleneck, not the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import MappingProxyType

import aiohttp

from pytest_kvbench.engines.base import Reply, RequestFailedError, bearer
from pytest_kvbench.engines.body import as_json
from pytest_kvbench.engines.breaker import Breaker
from pytest_kvbench.engines.completion import (
    PASSING,
    NotACompletionError,
    error_message,
    fault_in,
)
from pytest_kvbench.engines.keys import decoded, hidden, masked
from pytest_kvbench.engines.loading import LOOK_S, is_loading
from pytest_kvbench.engines.open_files import allow_open_files
from pytest_kvbench.engines.pacing import Pace, tokens_of
from pytest_kvbench.engines.retry import (
    Limited,
    TransientError,
    deadline_s,
    retry_after,
    tries,
)
from pytest_kvbench.engines.sse import Assembly, BrokenStreamError
from pytest_kvbench.errors import EngineError
from pytest_kvbench.files import OUT_OF_FILES
from pytest_kvbench.wire import bounded
from pytest_kvbench.wire.bounded import TooLargeError
from pytest_kvbench.wire.network import HOPS, RedirectError, certificates, proxy_to, redirected
from pytest_kvbench.wire.sound import Fields

_STREAM = "text/event-stream"
_JSON = {"Content-Type": "application/json"}
_AT_ONCE = 2**20  # bytes of a reply that wait to be read


@dataclass(frozen=True)
class _Wanted:
    """A request; `completes`: whether its reply is to be a completion."""

    url: str
    body: Fields
    stream: bool = False
    completes: bool = True


class Http:
    """POSTs JSON with at most `concurrency` requests in flight.

    Once no connection can be made to the server, after all retries, it is taken for gone, and
    every later call ends at once: a dead server must not cost a timeout per request.

    Args:
        base_url: with the `/v1`.
        concurrency: requests in flight.
        timeout_s: deadline of each try of a request, from when its turn has come.
        retries: tries after the first.
        api_key: sent as a bearer token; never stored or logged, and cut out of errors.
        headers: sent as well.
        pace: what requests wait for, where the server allows so many a minute.
        places: where other processes have requests in flight too, what counts them all.
        max_bytes: of a reply; a larger one is not read any further, nor asked for again.
        foreign: somebody else's server: the first request goes alone (see `breaker`).
        start_timeout_s: how long it may answer that it is still loading, before its first answer.
        sends_keys: whether `api_key` is what the environment has, so that one would be sent.

    Raises:
        EngineError: this process may not have as many connections.
    """

    def __init__(
        self,
        base_url: str,
        *,
        concurrency: int,
        timeout_s: float,
        retries: int,
        api_key: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        pace: Pace | None = None,
        places: AbstractAsyncContextManager[None] | None = None,
        max_bytes: int = bounded.REPLY,
        foreign: bool = False,
        start_timeout_s: float = 0.0,
        sends_keys: bool = True,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._api_key = api_key
        self._headers = {**headers, **bearer(api_key)}
        self._pace = pace
        self._max_bytes = max_bytes
        allow_open_files(concurrency)
        self._places = places or asyncio.Semaphore(concurrency)
        has_key = api_key is not None if sends_keys else None
        self._breaker = Breaker(self.base_url, has_key=has_key, alone=foreign)
        self._session: aiohttp.ClientSession | None = None
        self._gone: str | None = None
        self._start_timeout_s = start_timeout_s
        self._is_up = False

    async def post(self, path: str, body: Fields, *, stream: bool = False) -> Reply:
        """POST `body`, retrying what may pass. `stream`: the body asks for a streamed reply.

        Raises:
            RequestFailedError: this request has no reply, or was not sent (`NotAskedError`).
            EngineError: the server is gone, or refuses every request.
        """
        return await self._post(path, _Wanted(self.base_url + path, body, stream))

    async def ask(self, path: str, body: Fields) -> Reply:
        """POST `body` below the server's root, not its `/v1`: as `post`, the reply in any form."""
        root = self.base_url.removesuffix("/v1")
        return await self._post(path, _Wanted(root + path, body, completes=False))

    async def _post(self, path: str, wanted: _Wanted) -> Reply:
        body = wanted.body
        watched = self._breaker.watch(tokens_of(body), path, body.get("model"))
        async with self._places, watched:  # before the deadline starts: waiting is not the server's
            waited_s = 0.0 if self._pace is None else await self._pace.wait(body)
            reply = await self._once_loaded(wanted)
            return replace(reply, waited_s=reply.waited_s + waited_s) if waited_s else reply

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _once_loaded(self, wanted: _Wanted) -> Reply:
        """As `_tried`; while the server has answered nothing and says that it loads, again."""
        gives_up = time.monotonic() + self._start_timeout_s
        while True:
            try:
                reply = await self._tried(wanted)
            except RequestFailedError as failed:
                loads = not self._is_up and is_loading(failed.status, str(failed))
                if not loads or time.monotonic() > gives_up:
                    raise
                await asyncio.sleep(LOOK_S)
            else:
                self._is_up = True
                return reply

    async def _tried(self, wanted: _Wanted) -> Reply:
        attempts, whole_s = 1, deadline_s(self._timeout_s, self._retries)
        limited, failed = Limited(), None
        try:
            async with asyncio.timeout(whole_s):
                try:
                    return await self._in_time(wanted)
                except TransientError as first:
                    failed = first  # only now: what repeats costs more than a quick answer
                async for attempt in tries(self._retries):
                    with attempt, limited:
                        if attempt.retry_state.attempt_number == 1:
                            raise failed
                        attempts += 1
                        reply = await self._in_time(wanted)
                        return replace(reply, waited_s=limited.waited_s)
        except TimeoutError:
            message = f"no reply within {whole_s:g} s, all tries together"
            raise RequestFailedError("TIMEOUT", message, attempts) from None
        except TransientError as last:
            if last.unreachable:
                self._gone = self._clean(last)
                self._refuse_if_gone()
            raise self._failed(last, attempts) from None
        except RequestFailedError as refused:
            raise self._failed(refused, attempts) from None
        raise AssertionError("unreachable: a try returns or raises")

    async def _in_time(self, wanted: _Wanted) -> Reply:
        """One try, within its deadline."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._once(wanted)
        except TimeoutError:
            raise TransientError("TIMEOUT", f"no reply within {self._timeout_s:g} s") from None

    def _failed(
        self, error: TransientError | RequestFailedError, attempts: int
    ) -> RequestFailedError:
        return RequestFailedError(error.kind, self._clean(error), attempts, status=error.status)

    def _refuse_if_gone(self) -> None:
        if self._gone is not None:
            raise EngineError(
                f"the server at {self.base_url} is gone: {self._gone}",
                "what was answered is kept; start the server and run again",
            )

    def _clean(self, error: Exception) -> str:
        """The message without the key, which some servers repeat."""
        return masked(str(error), self._api_key)

    async def _once(self, wanted: _Wanted) -> Reply:
        self._refuse_if_gone()
        try:
            return await self._reply(wanted, time.perf_counter())
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(
                "ENGINE_ERROR",
                f"{type(error).__name__}: {error}".rstrip(": "),
                unreachable=isinstance(error, aiohttp.ClientConnectorError)
                and error.errno not in OUT_OF_FILES,  # which says nothing of the server
            ) from error
        except BrokenStreamError as error:
            failure = TransientError if error.passes else RequestFailedError
            raise failure("ENGINE_ERROR", str(error)) from error
        except TooLargeError as error:
            raise RequestFailedError("ENGINE_ERROR", str(error)) from error

    async def _reply(self, wanted: _Wanted, started: float, hops: int = HOPS) -> Reply:
        url, body = wanted.url, wanted.body
        post, sent = self._open.post, as_json(body)
        async with post(url, data=sent, headers=_JSON, allow_redirects=False) as response:
            target = _followed(response, url, hops)
            # A server that does not stream after all is taken at its word.
            if wanted.stream and response.status < 300 and response.content_type == _STREAM:
                streamed = await _streamed(response, started, self._max_bytes)
                return replace(streamed, data=hidden(streamed.data, self._api_key))
            content = await bounded.content(response, self._max_bytes)
        if target is not None:
            return await self._reply(replace(wanted, url=target), started, hops - 1)
        data = _decoded(response, content, self._api_key, completes=wanted.completes)
        return Reply(data, time.perf_counter() - started)

    @property
    def _open(self) -> aiohttp.ClientSession:
        """The session, opened inside the event loop that uses it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=certificates(self.base_url)),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None),  # each try has its own
                proxy=proxy_to(self.base_url),  # looked up once: `trust_env` does for every request
                read_bufsize=_AT_ONCE,
            )
        return self._session


async def _streamed(response: aiohttp.ClientResponse, started: float, limit: int) -> Reply:
    """The reply of one streamed try, put together."""
    ttft_s, assembly = None, Assembly()
    async for piece in bounded.pieces(response, limit):
        assembly.feed(piece)
        if assembly.started and ttft_s is None:
            ttft_s = time.perf_counter() - started
    return Reply(assembly.reply(), time.perf_counter() - started, ttft_s)


def _followed(response: aiohttp.ClientResponse, url: str, hops: int) -> str | None:
    """Where the request goes next; None where this is its reply."""
    location = response.headers.get("Location")
    try:
        target = redirected("POST", url, response.status, location if hops else None)
    except RedirectError as error:
        raise RequestFailedError("ENGINE_ERROR", error.what, status=response.status) from None
    return target


def _decoded(
    response: aiohttp.ClientResponse, content: bytes, key: str | None, *, completes: bool
) -> Fields:
    status = response.status
    if status in PASSING:
        raise TransientError(
            "ENGINE_ERROR",
            f"HTTP {status}: {error_message(content)}",
            status=status,
            retry_after_s=retry_after(response.headers),
        )
    if status >= 300:
        message = f"HTTP {status}: {error_message(content)}"
        raise RequestFailedError("ENGINE_ERROR", message, status=status)
    try:
        data = decoded(content, key)
    except ValueError:
        raise TransientError("ENGINE_ERROR", "the reply is not JSON") from None
    if not isinstance(data, dict):
        raise TransientError("ENGINE_ERROR", f"the reply is a JSON {type(data).__name__}")
    fault = fault_in(data)
    if fault is not None and fault.passes:
        raise TransientError("ENGINE_ERROR", f"HTTP {status}: {fault.message}", status=status)
    if fault is not None or (completes and not data.get("choices")):
        reason = fault.message if fault else str(NotACompletionError("it holds no choices"))
        raise RequestFailedError("ENGINE_ERROR", f"HTTP {status}: {reason}", status=status)
    return data
