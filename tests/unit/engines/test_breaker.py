"""When a server is not asked any more, and when it still is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from pytest_kvbench.engines import breaker
from pytest_kvbench.engines.base import NotAskedError, Reply, RequestFailedError
from pytest_kvbench.engines.breaker import FEW
from pytest_kvbench.engines.client import Http
from pytest_kvbench.errors import EngineError, RefusedError
from tests.support.wire import Wire

Outcome = Reply | BaseException


def body(words: int = 5) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "word " * words + "Say yes"}]}


def refusal(status: int, message: str) -> Callable[..., Response]:
    return lambda number, body: JSONResponse({"error": {"message": message}}, status_code=status)


def ask(server: Wire, bodies: list[dict[str, Any]], url: str = "", **more: Any) -> list[Outcome]:
    """All of them, `concurrency` at once and in order."""

    async def all_of_them() -> list[Outcome]:
        settings = {"concurrency": 4, "timeout_s": 20, "retries": 0, "foreign": True, **more}
        http = Http(url or server.base_url, **settings)
        try:
            posts = (http.post("/chat/completions", one) for one in bodies)
            return await asyncio.gather(*posts, return_exceptions=True)
        finally:
            await http.aclose()

    return asyncio.run(all_of_them())


@pytest.fixture
def server() -> Any:
    with Wire() as wire:
        yield wire


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (401, "Incorrect API key provided", "mend the key"),
        (403, "Access denied", "mend the key"),
        (404, "The model `m` does not exist", "engine.model: it is 'm'"),
        (400, "m is not a valid model ID", "engine.model: it is 'm'"),
        (404, "no context at this path", "mend engine.base_url"),
        (405, "Method Not Allowed", "mend engine.base_url"),
        (402, "Insufficient Balance", "pay there"),
    ],
)
def test_a_refusal_of_everything_costs_one_request(
    server: Wire, status: int, message: str, hint: str
) -> None:
    server.trouble = refusal(status, message)
    outcomes = ask(server, [body()] * 40, api_key="sesame-4711")
    assert len(server.asked) == 1
    assert all(isinstance(one, EngineError) for one in outcomes)
    assert sum(isinstance(one, RefusedError) for one in outcomes) == 1
    (told,) = {str(one) for one in outcomes}
    assert message in told
    assert hint in told
    assert len(told.splitlines()) == 2


def test_an_address_without_v1_is_told_what_it_lacks(server: Wire) -> None:
    (told,) = ask(server, [body()], url=server.base_url.removesuffix("/v1"))
    assert f"most servers want {server.base_url}" in str(told)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_after_an_answer_it_is_one_failed_request(server: Wire, status: int) -> None:
    refused = refusal(status, "not for you")
    server.trouble = lambda number, body: refused(number, body) if number % 3 == 2 else None
    outcomes = ask(server, [body()] * 30)
    assert len(server.asked) == 30
    assert sum(isinstance(one, Reply) for one in outcomes) == 20
    assert {type(one) for one in outcomes} == {Reply, RequestFailedError}


def test_a_key_that_runs_out_stops_the_asking(server: Wire) -> None:
    refused = refusal(401, "revoked")
    server.trouble = lambda number, body: refused(number, body) if number > 10 else None
    outcomes = ask(server, [body()] * 100)
    assert len(server.asked) <= 10 + FEW + 4
    assert sum(isinstance(one, NotAskedError) for one in outcomes) >= 80


@pytest.mark.parametrize(
    "reply",
    [
        lambda n: JSONResponse({"error": {"message": f"view size, request {n}"}}, status_code=500),
        lambda n: JSONResponse({"error": f"Unexpected endpoint or method {n}"}),
        lambda n: JSONResponse({"detail": [f"id {n}"]}, status_code=422),
        lambda n: JSONResponse({"choices": []}),
        lambda n: Response("<html>"),
    ],
)
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_fails_every_request_alike_is_asked_a_few(
    server: Wire, concurrency: int, reply: Callable[[int], Response]
) -> None:
    server.trouble = lambda number, body: reply(number)
    outcomes = ask(server, [body()] * 65, concurrency=concurrency)
    assert FEW <= len(server.asked) <= FEW + 2 * concurrency
    assert {type(one) for one in outcomes} == {RequestFailedError, NotAskedError}
    assert "not asked: the server failed 5 requests alike" in str(outcomes[-1])
    assert outcomes[-1].attempts == 0  # type: ignore[union-attr]


def test_failures_that_differ_stop_nothing(server: Wire) -> None:
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    server.trouble = lambda number, body: refusal(400, names[number % 10])(number, body)
    ask(server, [body()] * 40)
    assert len(server.asked) == 40


def test_a_context_that_is_too_short_stops_no_other_prompt(server: Wire) -> None:
    limit = refusal(400, "This model's maximum context length is 4096 tokens")
    long = {"prompt": 0}

    def trouble(number: int, asked: dict[str, Any]) -> Response | None:
        over = len(asked["messages"][0]["content"]) > 1000
        long["prompt"] += over
        return limit(number, asked) if over else None

    server.trouble = trouble
    outcomes = ask(server, [*[body(900)] * 20, *[body(5)] * 20])
    assert len(server.asked) == 40
    assert [isinstance(one, Reply) for one in outcomes] == [False] * 20 + [True] * 20


def test_what_only_long_prompts_meet_stops_no_short_one(server: Wire) -> None:
    def trouble(number: int, asked: dict[str, Any]) -> Response | None:
        over = len(asked["messages"][0]["content"]) > 1000
        return refusal(500, "it broke")(number, asked) if over else None

    server.trouble = trouble
    outcomes = ask(server, [*[body(900)] * 20, body(5), *[body(900)] * 4], concurrency=1)
    assert isinstance(outcomes[20], Reply), "shorter than all that failed"
    assert len(server.asked) == FEW + 1 + 4, "an answer takes it back"


def test_a_limit_that_passes_is_no_reason_to_stop(
    server: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.trouble = refusal(429, "slow down")
    ask(server, [body()] * 20)
    assert len(server.asked) == 20
    monkeypatch.setattr(breaker, "_MINUTE_S", 0.0)
    ask(server, [body()] * 20)
    assert len(server.asked) < 40, "after a minute it is one"


def test_who_waits_longer_may_still_be_answered(server: Wire) -> None:
    """One is answered slowly while its neighbours fail at once: then nobody is given up."""

    class Slow(JSONResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            while len(server.asked) < 30:
                await asyncio.sleep(0.01)
            await super().__call__(scope, receive, send)

    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "yes"}}
    server.trouble = lambda number, body: (
        Slow({"choices": [choice]}) if number == 1 else refusal(500, "busy")(number, body)
    )
    outcomes = ask(server, [body()] * 30, foreign=False)
    assert len(server.asked) == 30
    assert isinstance(outcomes[0], Reply)
