"""A server that is still loading is waited for, as long as one may take to start."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pytest_kvbench.engines import client, probe
from pytest_kvbench.engines.base import RequestFailedError
from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.errors import EngineError
from pytest_kvbench.experiment.engine import EngineSettings
from tests.support.mock_server import MockServer
from tests.support.serving import Serving

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
BODY = {"model": "mock", "messages": [{"role": "user", "content": "Say a"}], "max_tokens": 1}


def loading() -> Response:
    return JSONResponse(LOADING, status_code=503)


@dataclass
class Facts(Serving):
    """Tells what it is after so many questions."""

    left: int = 3

    def routes(self) -> list[Route]:
        return [Route("/props", self._props)]

    async def _props(self, _request: Request) -> Response:
        self.left -= 1
        return loading() if self.left >= 0 else JSONResponse({"build": 1})


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (client, probe):
        monkeypatch.setattr(module, "LOOK_S", 0.01)


def ask(mock: MockServer, starts_s: float) -> int:
    """The number of requests that were answered, of two."""

    async def both() -> int:
        http = Http(mock.base_url, concurrency=2, timeout_s=60, retries=0, start_timeout_s=starts_s)
        try:
            asked = (http.post("/chat/completions", BODY) for _ in range(2))
            replies = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await http.aclose()
        return sum(not isinstance(reply, RequestFailedError) for reply in replies)

    return asyncio.run(both())


def test_requests_wait_for_it(mock: MockServer) -> None:
    mock.trouble = lambda number, body: loading() if number <= 9 else None
    assert ask(mock, 600) == 2
    assert mock.posts > 10


def test_no_longer_than_it_may_take_to_start(mock: MockServer) -> None:
    mock.trouble = lambda number, body: loading()
    assert ask(mock, 0) == 0


def test_a_server_that_has_answered_is_not_loading(mock: MockServer) -> None:
    mock.trouble = lambda number, body: loading() if number > 1 else None

    async def one_after_the_other() -> None:
        http = Http(mock.base_url, concurrency=1, timeout_s=60, retries=0, start_timeout_s=600)
        try:
            await http.post("/chat/completions", BODY)
            with pytest.raises(RequestFailedError, match="Loading model"):
                await http.post("/chat/completions", BODY)
        finally:
            await http.aclose()

    asyncio.run(one_after_the_other())
    assert mock.posts == 2


def test_another_503_is_a_failure_at_once(mock: MockServer) -> None:
    busy = JSONResponse({"error": {"message": "no capacity"}}, status_code=503)
    mock.trouble = lambda number, body: busy
    assert (ask(mock, 600), mock.posts) == (0, 2)


def test_questions_about_it_wait_too() -> None:
    with Facts() as server:
        base_url = f"http://127.0.0.1:{server.port}/v1"
        settings = EngineSettings(name="llamacpp", base_url=base_url)
        with pytest.raises(EngineError, match="Loading model"):
            Probe(base_url, settings).json("/props")
        assert Probe(base_url, settings, starts_s=600).json("/props") == {"build": 1}
