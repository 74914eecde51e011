"""The HTTP client against a real server on loopback: what is retried, what is not, when it ends."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from pytest_kvbench.engines.base import Reply, RequestFailedError
from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.retry import deadline_s
from pytest_kvbench.errors import EngineError
from tests.support.mock_server import MockServer


class Hanging(Response):
    """Says nothing before the test ends."""

    def __init__(self, until: threading.Event) -> None:
        super().__init__()
        self._until = until

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while not self._until.is_set():
            await asyncio.sleep(0.05)
        await super().__call__(scope, receive, send)


BODY = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Say word"}]}],
    "kv": [{"policy": "none", "budget": 1.0}],
}


def post(url: str, **settings: Any) -> Reply:
    async def once() -> Reply:
        http = Http(url, **{"concurrency": 1, "timeout_s": 20, "retries": 2, **settings})
        try:
            return await http.post("/chat/completions", BODY)
        finally:
            await http.aclose()

    return asyncio.run(once())


def first(times: int, make: Callable[[], Response]) -> Callable[[int, Any], Response | None]:
    return lambda number, body: make() if number <= times else None


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529])
def test_passing_trouble_is_retried(mock: MockServer, status: int) -> None:
    mock.trouble = first(1, lambda: Response(status_code=status, headers={"Retry-After": "0"}))
    assert post(mock.base_url).data["choices"][0]["message"]["content"] == "word"
    assert mock.posts == 2


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_our_own_mistakes_are_not_retried(mock: MockServer, status: int) -> None:
    body = {"error": {"message": "too long", "type": "invalid_request_error"}}
    mock.trouble = first(9, lambda: JSONResponse(body, status_code=status))
    with pytest.raises(RequestFailedError, match=f"HTTP {status}: too long") as caught:
        post(mock.base_url)
    assert (caught.value.kind, mock.posts) == ("ENGINE_ERROR", 1)


def ended(reason: object, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"content": "half a"}, **more}
    return {"choices": [choice], "usage": {"prompt_tokens": 3}}


BAD_GATEWAY = {"code": 502, "message": "the upstream is away"}
BROKEN_OFF: list[object] = [
    *("network_error", "failed", "cancelled", "internal_server_error", "Abort", "timeout"),
    *("insufficient_system_resource", "FINISH_REASON_ERROR", "engineOverloaded", None),
    {"type": "abort", "message": "oom"},
]
UPSTREAM = [
    *((ended(reason), True) for reason in BROKEN_OFF),
    ({"object": "error", "message": "input too long", "code": 400}, False),
    ({"object": "error", "message": "away for a moment", "code": 503}, True),
    ({"detail": "Not authenticated"}, False),
    ({"detail": [{"loc": ["body"], "msg": "no such field"}]}, False),
    ({"message": "slow down", "code": "429"}, True),
    ({"error": {"message": "slow down"}, "status": 429}, True),
    ({"error": True, "message": "bad key", "status_code": 401}, False),
    (ended("error"), True),
    (ended("abort"), True),
    (ended("error", error=BAD_GATEWAY), True),
    (ended("stop", error=BAD_GATEWAY), True),
    (ended("error", error={"code": 400, "message": "the upstream refuses"}), False),
    ({"error": {**BAD_GATEWAY, "code": "529"}}, True),
    ({"error": {"code": 400, "message": "the prompt is too long"}}, False),
    ({"error": {"code": "context_length_exceeded", "message": "too long"}}, False),
]


@pytest.mark.parametrize(("reply", "passes"), UPSTREAM)
def test_an_error_that_comes_as_a_success_is_one(
    mock: MockServer, reply: dict[str, Any], passes: bool
) -> None:
    mock.trouble = first(1, lambda: JSONResponse(reply))
    if passes:
        assert post(mock.base_url).data["choices"][0]["message"]["content"] == "word"
    else:
        with pytest.raises(RequestFailedError):
            post(mock.base_url)
    assert mock.posts == 1 + passes


@pytest.mark.parametrize(("reply", "passes"), UPSTREAM)
def test_what_is_tried_in_vain_says_the_servers_words(
    mock: MockServer, reply: dict[str, Any], passes: bool
) -> None:
    error = json.dumps(reply)
    said = re.findall(r'"(?:message|msg|detail)": "(.*?)"', error) or ["finish_reason"]
    mock.trouble = first(9, lambda: JSONResponse(reply, headers={"Retry-After": "0"}))
    with pytest.raises(RequestFailedError, match=said[-1]) as caught:
        post(mock.base_url, retries=int(passes))
    assert (caught.value.kind, mock.posts) == ("ENGINE_ERROR", 1 + passes)


def test_garbage_is_retried_then_a_failure(mock: MockServer) -> None:
    mock.trouble = first(9, lambda: PlainTextResponse("<html>"))
    with pytest.raises(RequestFailedError, match="not JSON") as caught:
        post(mock.base_url)
    assert (caught.value.attempts, mock.posts) == (3, 3)


def test_each_try_has_the_deadline_and_a_timeout_is_tried_again(mock: MockServer) -> None:
    hangs = threading.Event()
    mock.trouble = lambda number, body: None if number == 3 else Hanging(hangs)
    try:
        reply = post(mock.base_url, timeout_s=0.3, retries=2)
        assert reply.data["choices"][0]["message"]["content"] == "word"
        assert mock.posts == 3
        mock.trouble = lambda number, body: Hanging(hangs)
        with pytest.raises(RequestFailedError, match=r"no reply within 0\.3 s") as caught:
            post(mock.base_url, timeout_s=0.3, retries=1)
        assert (caught.value.kind, caught.value.attempts) == ("TIMEOUT", 2)
    finally:
        hangs.set()


def test_the_whole_ends_after_every_try_and_wait_at_its_longest() -> None:
    assert deadline_s(600, 0) == 600
    assert deadline_s(2, 3) == 4 * 2 + 3 * 30


def test_retry_after_is_waited_for_beyond_a_try(mock: MockServer) -> None:
    mock.trouble = first(1, lambda: Response(status_code=429, headers={"Retry-After": "1"}))
    assert post(mock.base_url, timeout_s=0.5).data["choices"]
    assert mock.posts == 2


def test_a_server_that_is_gone_ends_every_later_request_at_once(mock: MockServer) -> None:
    mock.kill()

    async def twice() -> None:
        http = Http(mock.base_url, concurrency=1, timeout_s=20, retries=1)
        for _ in range(2):
            with pytest.raises(EngineError, match="is gone"):
                await http.post("/chat/completions", BODY)
        started = asyncio.get_running_loop().time()
        with pytest.raises(EngineError):
            await http.post("/chat/completions", BODY)
        assert asyncio.get_running_loop().time() - started < 0.4  # less than one backoff
        await http.aclose()

    asyncio.run(twice())


@pytest.fixture
def few_files() -> Iterator[int]:
    """A soft limit just above what is open; its hard one stays."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = psutil.Process().num_fds() + 16
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_soft_limit_on_open_files_is_no_limit_on_requests(
    mock: MockServer, few_files: int
) -> None:
    mock.latency_s = 0.5

    async def together() -> list[Reply]:
        http = Http(mock.base_url, concurrency=200, timeout_s=20, retries=0)
        try:
            posts = (http.post("/chat/completions", BODY) for _ in range(200))
            return await asyncio.gather(*posts)
        finally:
            await http.aclose()

    assert len(asyncio.run(together())) == 200


def test_more_requests_in_flight_than_files_are_two_lines(few_files: int) -> None:
    if few_files == resource.RLIM_INFINITY:
        pytest.skip("this system has no hard limit")
    with pytest.raises(EngineError, match=f"engine.concurrency {few_files}") as caught:
        Http("http://127.0.0.1:1/v1", concurrency=few_files, timeout_s=1, retries=0)
    assert "ulimit" in caught.value.hint
