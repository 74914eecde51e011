"""HTTP to an OpenAI-compatible server: bounded, retried, with a deadline, and honest about ends.

One httpx client per request in flight: a shared pool scans all its connections on every request
and was the bottleneck (272 against 792 requests/s at 32 in flight, see README).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx
import tenacity

from pytest_kvbench.engines.sse import Assembly, BrokenStreamError
from pytest_kvbench.errors import EngineError
from pytest_kvbench.records import FailureKind

RETRIED_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.5, max=_LONGEST_WAIT_S, jitter=0.5)


@dataclass(frozen=True)
class Reply:
    """A decoded response, and the wall times of the try that brought it, in seconds.

    `ttft_s`: to the first piece of text, where the reply was streamed.
    """

    data: dict[str, Any]
    latency_s: float
    ttft_s: float | None = None


class RequestFailedError(Exception):
    """One request got no usable reply, after all tries."""

    def __init__(self, kind: FailureKind, message: str, attempts: int = 1) -> None:
        self.kind: FailureKind = kind
        self.attempts = attempts
        super().__init__(message)


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
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._api_key = api_key
        sent = {**headers, **bearer(api_key)}
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        verify = self.base_url.startswith(
            "https:"
        )  # a TLS context costs 20 ms; plain HTTP has none
        self._clients = [
            httpx.AsyncClient(headers=sent, limits=limits, timeout=None, verify=verify)  # noqa: S113 -- `post` has one deadline over all tries
            for _ in range(concurrency)
        ]
        self._idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for client in self._clients:
            self._idle.put_nowait(client)
        self._gone: str | None = None

    async def post(self, path: str, body: dict[str, Any], *, stream: bool = False) -> Reply:
        """POST `body`, retrying what may pass. `stream`: the body asks for a streamed reply.

        Raises:
            RequestFailedError: this request has no reply.
            EngineError: the server is gone.
        """
        client = await self._idle.get()  # before the deadline starts: waiting is not the server's
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
                        return await self._once(client, path, body, stream)
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
        finally:
            self._idle.put_nowait(client)
        raise AssertionError("unreachable: a try returns or raises")

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients))

    def _refuse_if_gone(self) -> None:
        if self._gone is not None:
            raise EngineError(
                f"the server at {self.base_url} is gone: {self._gone}",
                "what was answered is kept; start the server and run again",
            )

    def _clean(self, error: Exception) -> str:
        """The message without the key, which some servers repeat."""
        return str(error).replace(self._api_key, "***") if self._api_key else str(error)

    async def _once(
        self, client: httpx.AsyncClient, path: str, body: dict[str, Any], stream: bool
    ) -> Reply:
        self._refuse_if_gone()
        url = self.base_url + path
        try:
            if stream:
                return await _streamed(client, url, body)
            started = time.perf_counter()
            response = await client.post(url, json=body)
            latency_s = time.perf_counter() - started
        except httpx.TransportError as error:
            raise _TransientError(
                "ENGINE_ERROR",
                f"{type(error).__name__}: {error}".rstrip(": "),
                unreachable=isinstance(error, httpx.ConnectError),
            ) from error
        except BrokenStreamError as error:
            raise _TransientError("ENGINE_ERROR", str(error)) from error
        return Reply(_decoded(response), latency_s)


async def _streamed(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Reply:
    """One streamed try. A server that does not stream after all is taken at its word."""
    started, ttft_s, assembly = time.perf_counter(), None, Assembly()
    async with client.stream("POST", url, json=body) as response:
        if "text/event-stream" not in response.headers.get("content-type", ""):
            await response.aread()
            return Reply(_decoded(response), time.perf_counter() - started)
        async for line in response.aiter_lines():
            assembly.feed(line)
            if assembly.started and ttft_s is None:
                ttft_s = time.perf_counter() - started
    return Reply(assembly.reply(), time.perf_counter() - started, ttft_s)


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that carries a key, if there is one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _decoded(response: httpx.Response) -> dict[str, Any]:
    if response.status_code in RETRIED_STATUS:
        raise _TransientError(
            "ENGINE_ERROR",
            f"HTTP {response.status_code}: {error_message(response)}",
            retry_after_s=_retry_after(response),
        )
    if response.is_error:
        raise RequestFailedError(
            "ENGINE_ERROR", f"HTTP {response.status_code}: {error_message(response)}"
        )
    try:
        data = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise _TransientError("ENGINE_ERROR", "the reply is not JSON") from None
    if not isinstance(data, dict):
        raise _TransientError("ENGINE_ERROR", f"the reply is a JSON {type(data).__name__}")
    return data


def error_message(response: httpx.Response) -> str:
    """The message of an OpenAI-style error body, or the body's beginning."""
    try:
        error = response.json()["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
    if error.get("type") == "exceed_context_size_error":
        return f"{message}: raise engine.launch.context, or the server's --ctx-size"
    return message


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None  # absent, or a date: our own backoff serves


def _wait(state: tenacity.RetryCallState) -> float:
    """What the server asked for, else exponential backoff with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _TransientError) and error.retry_after_s is not None:
        return min(error.retry_after_s, _LONGEST_WAIT_S)
    return _BACKOFF(state)
