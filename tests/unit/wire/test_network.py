"""The way to a server: no proxy for loopback, no redirect elsewhere, files for all of several."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route

from pytest_kvbench.batch.provider import Provider
from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.embedded import EmbeddedSource
from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.engines.places import Crowd
from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.tasks.served import served_tokenizer
from pytest_kvbench.wire.addresses import is_same_server
from pytest_kvbench.wire.network import RedirectError, client_of, redirected
from tests.support.serving import Serving
from tests.support.wire import Wire
from tests.unit.engines.test_openai import answer, answers, experiment, request, source

KEY = {"Authorization": "Bearer sesame-4711"}


class Everything(BaseRoute):
    """A route for every path, and for the whole addresses that a proxy is asked for."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def matches(self, scope: Any) -> tuple[Match, dict[str, Any]]:
        return Match.FULL, {}

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["path"])
        told = {"error": {"message": "you went through the proxy"}}
        await JSONResponse(told, status_code=418)(scope, receive, send)


class Proxy(Serving):
    """Notes who comes by."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def routes(self) -> Any:
        return [Everything(self.seen)]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy() as running:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, running.base_url.removesuffix("/v1"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield running


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    servers: list[Serving] = []

    def start(server: Any) -> Any:
        servers.append(server.__enter__())
        return server

    yield start
    for server in servers:
        server.kill()


ASKS: dict[str, Callable[[str], object]] = {
    "request": lambda url: answer(experiment("openai", base_url=url)),
    "probe": lambda url: Probe(url, experiment("vllm", base_url=url).engine, KEY).json("/version"),
    "post": lambda url: Probe(url, experiment("vllm", base_url=url).engine, KEY).post(
        "/tokenize", {"prompt": "a"}
    ),
    "tokens": lambda url: served_tokenizer(url, "m", KEY).count(["a b"]),
    "batch": lambda url: Provider(url, KEY, retries=0).batch("b"),
    "fingerprint": lambda url: embedded(url).fingerprint(),
}


def embedded(url: str) -> EmbeddedSource:
    settings = experiment("local", base_url=url).engine
    return EmbeddedSource(settings, run_id="x", owner_pid=1, log=None, crowd=Crowd())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ASKS)
def test_loopback_never_goes_through_a_proxy(
    name: str, proxy: Proxy, serve: Callable[..., Any]
) -> None:
    server = serve(Wire("vllm"))
    without = name == "batch"  # which this server has not
    with pytest.raises(EngineError) if without else contextlib.nullcontext():
        ASKS[name](server.base_url)
    assert proxy.seen == []
    assert server.keys


def test_other_hosts_go_through_it(proxy: Proxy) -> None:
    with client_of("http://kvbench.invalid/v1", timeout_s=5) as client:
        assert client.get("http://kvbench.invalid/v1/models").status_code == 418
    asked = experiment("openai", base_url="http://kvbench.invalid/v1", retries=0)
    answers(asked, request())
    assert len(proxy.seen) == 2


def test_a_proxy_that_speaks_no_http_is_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    asked = experiment("openai", base_url="https://kvbench.invalid/v1", retries=0)
    with pytest.raises(EngineError, match="socks5 proxy") as caught:
        answers(asked, request())
    assert len(str(caught.value).splitlines()) == 2


class Redirecting(Serving):
    """Sends everything elsewhere, or further on here."""

    def __init__(self, target: Callable[[str], str], status: int) -> None:
        self.target, self.status = target, status
        self.asked = 0

    def routes(self) -> list[Route]:
        return [Route("/{path:path}", self._send_on, methods=["GET", "POST", "HEAD"])]

    async def _send_on(self, asked: Asked) -> Response:
        self.asked += 1
        return RedirectResponse(self.target(asked.url.path), self.status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", ASKS)
def test_a_redirect_to_another_host_is_not_followed(
    name: str, status: int, serve: Callable[..., Any]
) -> None:
    other = serve(Wire("vllm"))
    root = other.base_url.removesuffix("/v1")
    server = serve(Redirecting(lambda path: root + path, status))
    with pytest.raises((EngineError, UsageError)) as caught:
        ASKS[name](server.base_url)
    assert other.keys == [], "nobody came there, with or without a key"
    if name != "tokens":  # which only says that it counts none
        assert str(other.port) in str(caught.value)
        assert str(server.port) in str(caught.value)
    if name == "request":
        assert server.asked == 1


class Moved(Wire):
    """A server whose completions are under another path."""

    status: int = 308

    async def _serve(self, asked: Asked) -> Response:
        if asked.url.path.startswith("/new"):
            asked.scope["path"] = asked.url.path.removeprefix("/new")
            return await super()._serve(Asked(asked.scope, asked.receive))
        return RedirectResponse(f"/new{asked.url.path}", self.status)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_to_the_same_server_is_followed(status: int, serve: Callable[..., Any]) -> None:
    server = Moved("vllm")
    server.status = status
    serve(server)
    assert answer(experiment("vllm", base_url=server.base_url)).text == "word"


def test_a_post_does_not_become_a_get(serve: Callable[..., Any]) -> None:
    server = Moved()
    server.status = 302
    serve(server)
    with pytest.raises(EngineError, match=r"sends requests on to http.*/new/v1/chat.*HTTP 302"):
        answers(experiment("openai", base_url=server.base_url), request())
    assert server.asked == []


@given(st.text())
def test_no_location_is_a_traceback(location: str) -> None:
    for where in (location, f"http://{location}", f"//{location}"):
        with contextlib.suppress(RedirectError):
            target = redirected("GET", "http://h/v1", 302, where)
            assert target is None or is_same_server("http://h/", target)


def test_a_circle_of_redirects_ends(serve: Callable[..., Any]) -> None:
    server = serve(Redirecting(lambda path: path, 307))
    with pytest.raises(EngineError):
        answers(experiment("openai", base_url=server.base_url), request())
    with pytest.raises(EngineError):
        ASKS["probe"](server.base_url)
    assert server.asked < 12


# -- several addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["openai", "vllm", "sglang", "ollama", "llamacpp"])
def test_several_addresses_work_for_every_kind(kind: str, serve: Callable[..., Any]) -> None:
    one, other = serve(Wire(kind)), serve(Wire(kind))
    of = experiment(kind, base_url=[one.base_url, other.base_url], concurrency=4)
    told = source(of).fingerprint()
    backwards = experiment(kind, base_url=[other.base_url, one.base_url])
    assert source(backwards).fingerprint() == told
    found = answers(of, *[request() for _ in range(8)])
    assert {a.text for a in found} == {"word"}  # type: ignore[union-attr]
    assert one.asked
    assert other.asked


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_another_address_is_another_server_where_nothing_else_tells(
    kind: str, serve: Callable[..., Any]
) -> None:
    one, other = serve(Wire(kind)), serve(Wire(kind))
    prints = [source(experiment(kind, base_url=s.base_url)).fingerprint() for s in (one, other)]
    assert prints[0] != prints[1]
    assert KINDS[kind].by_address


def test_two_ollamas_of_other_weights_are_refused(serve: Callable[..., Any]) -> None:
    one, other = serve(Wire("ollama")), serve(Wire("ollama", version="2"))
    with pytest.raises(UsageError, match="not the same server: server is 'ollama 1'"):
        source(experiment("ollama", base_url=[one.base_url, other.base_url])).fingerprint()


def test_one_of_two_that_refuses_is_left_out_with_a_warning(serve: Callable[..., Any]) -> None:
    wrong = {"error": {"message": "Incorrect API key"}}
    one = serve(Wire(trouble=lambda n, body: JSONResponse(wrong, status_code=401)))
    other = serve(Wire())
    of = experiment("openai", base_url=[one.base_url, other.base_url])
    with pytest.warns(
        UserWarning, match="HTTP 401: Incorrect API key: .* refuses every request: it is left out"
    ):
        found = answers(of, *[request() for _ in range(12)])
    assert {a.text for a in found} == {"word"}  # type: ignore[union-attr]
    assert (len(one.asked), len(other.asked)) == (1, 12)


def test_files_are_limited_by_places_times_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    urls = [f"http://127.0.0.1:{port}/v1" for port in (1, 2, 3)]
    source(experiment("openai", base_url=urls, concurrency=300)).start()
    assert limits[-1] == (1000, 1000)
    for kind in ("openai", "local"):
        of = experiment(kind, base_url=urls, concurrency=400)
        start = source(of).start if kind == "openai" else embedded_of(urls, 400).start
        with pytest.raises(EngineError, match="400 x 3 servers") as caught:
            start()
        assert "lower it to 312" in caught.value.hint


def embedded_of(urls: list[str], concurrency: int) -> EmbeddedSource:
    settings = experiment("local", base_url=urls, concurrency=concurrency).engine
    return EmbeddedSource(settings, run_id="x", owner_pid=1, log=None, crowd=Crowd())  # type: ignore[arg-type]


def test_the_client_of_requests_opens_one_session(serve: Callable[..., Any]) -> None:
    """A proxy and certificates are looked up once, not for every request."""
    server = serve(Wire())

    async def twice() -> None:
        http = Http(server.base_url, concurrency=1, timeout_s=20, retries=0)
        body = {"messages": [{"role": "user", "content": "Say yes"}]}
        try:
            await http.post("/chat/completions", body)
            first = http._session
            await http.post("/chat/completions", body)
            assert http._session is first
        finally:
            await http.aclose()

    asyncio.run(twice())


@pytest.mark.parametrize(
    "named", ["http://[::1", "http://h:99999", "http://a b", "http://", "a..b"]
)
@pytest.mark.parametrize("secret", ["", "me:sesame-4711@"])
def test_a_proxy_without_the_form_of_an_address_is_two_lines(
    named: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, named.replace("//", f"//{secret}"))
    url = "http://outside.example/v1"
    for name in ("request", "probe", "fingerprint"):
        with pytest.raises(EngineError, match=r"the proxy .* for http://outside") as caught:
            ASKS[name](url)
        assert "sesame" not in str(caught.value)


def test_an_embedded_server_that_refuses_is_told_in_its_own_words(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVBENCH_API_KEY", "sesame-4711")
    elsewhere = serve(Wire()).base_url + "/elsewhere"
    with pytest.raises(EngineError, match="is no list of models: HTTP 404: not found") as caught:
        embedded(elsewhere).fingerprint()
    assert "no key is sent" in caught.value.hint
    assert "mozilla" not in str(caught.value)
