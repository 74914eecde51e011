"""HTTP to an OpenAI-compatible server: bounded, retried, with a deadline, and honest about ends.

On aiohttp: a request costs a fifth of httpx's processor time (0.4 against 2.1 ms, one client per
request in flight), and at 32 in flight and 20 ms that client was the bottleneck, not the wire.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import tenacity

from pytest_kvbench import bounded, sound
from pytest_kvbench.bounded import TooLargeError
from pytest_kvbench.engines.base import Reply, RequestFailedError, bearer
from pytest_kvbench.engines.completion import error_of
from pytest_kvbench.engines.keys import masked
from pytest_kvbench.engines.pacing import Pace
from pytest_kvbench.engines.sse import Assembly, BrokenStreamError
from pytest_kvbench.errors import EngineError
from pytest_kvbench.files import OUT_OF_FILES
from pytest_kvbench.records import FailureKind

RETRIED_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
_OTHER_FILES = 64
_ENOUGH_FILES = 2**16
_LONGEST_WAIT_S = 30.0
_AT_ONCE = 2**20  # bytes of a reply that wait to be read
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.5, max=_LONGEST_WAIT_S, jitter=0.5)


class _TransientError(Exception):
    """A try that is worth repeating."""

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        unreachable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.kind: FailureKind = kind
        self.unreachable = unreachable
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Http:
    """POSTs JSON with at most `concurrency` requests in flight.

    Once no connection can be made to the server, after all retries, it is taken for gone, and
    every later call ends at once: a dead server must not cost a timeout per request.

    Args:
        base_url: with the `/v1`.
        concurrency: requests in flight.
        timeout_s: deadline of one request, retries included, from when its turn has come.
        retries: tries after the first.
        api_key: sent as a bearer token; never stored or logged, and cut out of errors.
        headers: sent as well.
        pace: what requests wait for, where the server allows so many a minute.
        max_bytes: of a reply; a larger one is not read any further, nor asked for again.

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
        max_bytes: int = bounded.REPLY,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._api_key = api_key
        self._headers = {**headers, **bearer(api_key)}
        self._pace = pace
        self._max_bytes = max_bytes
        allow_open_files(concurrency)
        self._places = asyncio.Semaphore(concurrency)
        self._session: aiohttp.ClientSession | None = None
        self._gone: str | None = None

    async def post(self, path: str, body: dict[str, Any], *, stream: bool = False) -> Reply:
        """POST `body`, retrying what may pass. `stream`: the body asks for a streamed reply.

        Raises:
            RequestFailedError: this request has no reply.
            EngineError: the server is gone.
        """
        async with self._places:  # before the deadline starts: waiting is not the server's
            if self._pace is not None:
                await self._pace.wait(body)
            return await self._tried(path, body, stream)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _tried(self, path: str, body: dict[str, Any], stream: bool) -> Reply:
        attempts = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for attempt in tenacity.AsyncRetrying(
                    stop=tenacity.stop_after_attempt(self._retries + 1),
                    wait=_wait,
                    retry=tenacity.retry_if_exception_type(_TransientError),
                    reraise=True,
                ):
                    with attempt:
                        attempts += 1
                        return await self._once(path, body, stream)
        except TimeoutError:
            raise RequestFailedError(
                "TIMEOUT", f"no reply within {self._timeout_s:g} s", attempts
            ) from None
        except RequestFailedError as refused:
            raise RequestFailedError(refused.kind, self._clean(refused), attempts) from None
        except _TransientError as last:
            if last.unreachable:
                self._gone = self._clean(last)
                self._refuse_if_gone()
            raise RequestFailedError(last.kind, self._clean(last), attempts) from None
        raise AssertionError("unreachable: a try returns or raises")

    def _refuse_if_gone(self) -> None:
        if self._gone is not None:
            raise EngineError(
                f"the server at {self.base_url} is gone: {self._gone}",
                "what was answered is kept; start the server and run again",
            )

    def _clean(self, error: Exception) -> str:
        """The message without the key, which some servers repeat."""
        return masked(str(error), self._api_key)

    async def _once(self, path: str, body: dict[str, Any], stream: bool) -> Reply:
        self._refuse_if_gone()
        started = time.perf_counter()
        try:
            async with self._open.post(self.base_url + path, json=body) as response:
                # A server that does not stream after all is taken at its word.
                if stream and response.content_type == "text/event-stream":
                    return await _streamed(response, started, self._max_bytes)
                content = await bounded.content(response, self._max_bytes)
        except (aiohttp.ClientError, OSError) as error:
            raise _TransientError(
                "ENGINE_ERROR",
                f"{type(error).__name__}: {error}".rstrip(": "),
                unreachable=isinstance(error, aiohttp.ClientConnectorError)
                and error.errno not in OUT_OF_FILES,  # which says nothing of the server
            ) from error
        except BrokenStreamError as error:
            raise _TransientError("ENGINE_ERROR", str(error)) from error
        except TooLargeError as error:
            raise RequestFailedError("ENGINE_ERROR", str(error)) from error
        return Reply(_decoded(response, content), time.perf_counter() - started)

    @property
    def _open(self) -> aiohttp.ClientSession:
        """The session, opened inside the event loop that uses it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_certificates(self.base_url)),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None),  # `post` has one over all tries
                proxy=_proxy(self.base_url),  # looked up once: `trust_env` does for every request
                read_bufsize=_AT_ONCE,
            )
        return self._session


def allow_open_files(connections: int) -> None:
    """Let this process have so many connections beside its other files.

    The soft limit, often 1,024 or 256, is only a habit of systems; the hard one stays.

    Raises:
        EngineError: more than the hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    wanted = connections + _OTHER_FILES
    if wanted > most:
        raise EngineError(
            f"engine.concurrency {connections}: each request in flight is an open file, and a "
            f"process may have {hard} of them here",
            f"lower it to {max(1, hard - _OTHER_FILES)}, or raise the limit: ulimit -Hn",
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # More than this client needs: others may have connections too.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(wanted, _ENOUGH_FILES)), hard))


def _certificates(url: str) -> ssl.SSLContext | bool:
    """httpx's certificates: those of SSL_CERT_FILE, or its own on a bare system."""
    if not url.startswith("https:"):
        return True
    import httpx  # 15 MB that a worker beside its own server does not need

    return httpx.create_ssl_context()


async def _streamed(response: aiohttp.ClientResponse, started: float, limit: int) -> Reply:
    """The rest of one streamed try."""
    ttft_s, assembly = None, Assembly()
    async for piece in bounded.pieces(response, limit):
        assembly.feed(piece)
        if assembly.started and ttft_s is None:
            ttft_s = time.perf_counter() - started
    return Reply(assembly.reply(), time.perf_counter() - started, ttft_s)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _decoded(response: aiohttp.ClientResponse, content: bytes) -> dict[str, Any]:
    status = response.status
    if status in RETRIED_STATUS:
        raise _TransientError(
            "ENGINE_ERROR",
            f"HTTP {status}: {error_message(content)}",
            retry_after_s=_retry_after(response.headers),
        )
    if status >= 400:
        raise RequestFailedError("ENGINE_ERROR", f"HTTP {status}: {error_message(content)}")
    try:
        data = sound.decoded(content)
    except ValueError:
        raise _TransientError("ENGINE_ERROR", "the reply is not JSON") from None
    if not isinstance(data, dict):
        raise _TransientError("ENGINE_ERROR", f"the reply is a JSON {type(data).__name__}")
    if not data.get("choices") and (told := error_of(data)):
        raise RequestFailedError("ENGINE_ERROR", f"HTTP {status}: {told}")
    return data


def error_message(content: bytes) -> str:
    """The message of an OpenAI-style error body, or the body's beginning."""
    try:
        told = error_of(sound.decoded(content))
    except ValueError:
        told = ""
    return told or sound.said(content.decode(errors="replace"), bounded.ERROR)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None  # absent, or a date: our own backoff serves


def _wait(state: tenacity.RetryCallState) -> float:
    """What the server asked for, else exponential backoff with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _TransientError) and error.retry_after_s is not None:
        return min(error.retry_after_s, _LONGEST_WAIT_S)
    return _BACKOFF(state)
