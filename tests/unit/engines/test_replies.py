"""Odd and endless replies over real HTTP: each is one outcome, and none is read past its limit."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pytest_kvbench.engines import engine_source
from pytest_kvbench.engines.base import EngineSource
from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.errors import EngineError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.records import (
    Answer,
    Arm,
    Failure,
    Prompt,
    Request,
    Sampling,
    canonical,
)
from pytest_kvbench.wire import bounded
from pytest_kvbench.wire.bounded import MIB
from tests.support.serving import Serving

Reply = Callable[["Odd"], Response]


@dataclass
class Odd(Serving):
    """Answers everything with the same reply."""

    reply: Reply = lambda odd: Response()
    posts: int = 0

    def routes(self) -> list[Route]:
        return [Route("/{path:path}", self._serve, methods=["GET", "POST"])]

    async def _serve(self, request: HttpRequest) -> Response:
        self.posts += request.method == "POST"
        return self.reply(self)

    def endless(self, piece: bytes, begin: bytes = b"", **more: Any) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield begin
            for _ in range(256 * MIB // len(piece)):  # an end for a reader who reads it all
                yield piece
                await asyncio.sleep(0)

        return StreamingResponse(pieces(), **more)


@pytest.fixture(scope="module")
def odd() -> Iterator[Odd]:
    with Odd() as server:
        yield server


@pytest.fixture
def serve(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], Odd]:
    """The server, once it answers so."""
    for name in ("KVBENCH_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def start(reply: Reply) -> Odd:
        odd.reply, odd.posts = reply, 0
        return odd

    return start


def source(name: str, url: str, **engine: Any) -> EngineSource:
    settings = {"name": name, "model": "m", "retries": 1, "timeout_s": 60, "base_url": url}
    inline = {"group": "g", "tasks": ["niah/single"], "kv": {"policies": ["snapkv"]}}
    if name != "local":
        inline["kv"] = {"policies": ["none"]}
    of = load_experiment(None, inline={**inline, "engine": {**settings, **engine}}).experiment
    log = Path(os.devnull)
    return engine_source(of.engine, of.kv, run_id="r", owner_pid=os.getpid(), log=log)


def ask(name: str, url: str, **engine: Any) -> Answer | Failure:
    arm = Arm("e", "m", "f", "none", 1.0, Sampling(), "t")
    asked = Request(arm, "t", 0, "e", 0, Prompt("the lake ", "Say word", 8))

    async def once() -> Answer | Failure:
        client = source(name, url, **engine).start()
        try:
            (found,) = await client.answer([asked])
        finally:
            await client.aclose()
        return found

    return asyncio.run(once())


def whole(content: bytes | str, **more: Any) -> Reply:
    return lambda odd: Response(content, media_type="application/json", **more)


def events(content: bytes) -> Reply:
    return lambda odd: Response(content, media_type="text/event-stream")


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Client and server together take no more than some buffers."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


engines = pytest.mark.parametrize("name", ["openai", "local"])


# -- odd -----------------------------------------------------------------------------------------

SOUND = (
    '{"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "word"}}],'
    ' "usage": {"prompt_tokens": 7, "completion_tokens": 1}}'
)


@engines
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbf" + SOUND.encode(), "word"),
        (SOUND.replace("word", r"word \ud83d"), "word \ufffd"),
        (SOUND.replace("stop", r"\udc00"), "word"),
        (SOUND.replace("7", "7" * 40), "word"),
        (SOUND.replace("7", "7" * 9000), "word"),
        (SOUND.replace("7", "Infinity"), "word"),
        (SOUND.replace('"word"', 'null, "refusal": "I will not."'), "I will not."),
        (SOUND.replace('{"prompt_tokens": 7, "completion_tokens": 1}', "[3]"), "word"),
    ],
    ids=["bom", "surrogate", "reason", "40-digits", "9000-digits", "infinity", "refusal", "list"],
)
def test_what_is_sound_of_an_odd_reply_is_kept(
    serve: Callable[[Reply], Odd], name: str, content: Any, text: str
) -> None:
    found = ask(name, serve(whole(content)).base_url)
    assert isinstance(found, Answer)
    assert found.text == text
    canonical([found.text, found.finish_reason, found.telemetry.prompt_tokens])


@engines
@pytest.mark.parametrize(
    ("content", "told", "posts"),
    [
        ("[" * 200_000, "not JSON", 2),
        ('{"choices": ' + "[" * 200_000, "not JSON", 2),
        (SOUND.replace('"word"', "3"), "content is", 1),
        ('{"choices": null, "error": {"message": "no \\ud83d \\u001b[31mmemory"}}', "memory", 1),
        (json.dumps({"error": "x" * 9000}), "xxx...", 1),
        (SOUND.replace('"usage"', '"error": {"message": "no memory"}, "usage"'), "no memory", 1),
        (SOUND.replace('"index": 0', '"index": 0, "error": "no memory"'), "no memory", 1),
    ],
    ids=["nested", "nested-choices", "number", "error", "long", "beside", "in the choice"],
)
def test_a_reply_without_an_answer_is_one_failure_that_says_why(
    serve: Callable[[Reply], Odd], name: str, content: Any, told: str, posts: int
) -> None:
    server = serve(whole(content))
    found = ask(name, server.base_url)
    assert isinstance(found, Failure)
    assert (found.kind, server.posts) == ("ENGINE_ERROR", posts)
    assert told in found.message
    assert len(found.message.encode()) <= 500
    assert found.message.isprintable()


def test_a_stream_survives_what_a_server_may_write(serve: Callable[[Reply], Odd]) -> None:
    long = json.dumps({"choices": [{"delta": {"content": "x" * 3_000_000}}]})
    content = (
        '\ufeffdata: {"choices": [{"delta": {"content": "\\ud83d"}}], "error": null}\r\n\r\n'
        'data:{"choices": [{"delta": {"content": "\\ude00é"}}]}\r\n\r\n'
        'data:{"choices": [{"delta": null}]}\r\n\r\n'
        f"data: {long}\r\n\r\n"
        'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\r\n\r\n'
        'data: {"choices": [], "usage": {"prompt_tokens": "seven"}}'
    )
    found = ask("openai", serve(events(content.encode())).base_url, stream=True)
    assert isinstance(found, Answer), found
    assert found.text == "\N{GRINNING FACE}é" + "x" * 3_000_000
    assert found.telemetry.prompt_tokens is None


def test_a_key_in_an_error_of_any_length_is_no_part_of_a_message(
    serve: Callable[[Reply], Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k" * 40)
    for before in (150, 180, 190, 460, 480):
        told = f"{'e' * before} {'k' * 40}"
        for content in (told, json.dumps({"error": told})):
            found = ask("openai", serve(whole(content, status_code=400)).base_url, retries=0)
            assert isinstance(found, Failure)
            assert "kk" not in found.message


# -- large ---------------------------------------------------------------------------------------


def bomb() -> bytes:
    """64 MB of a sound reply in 64 kB."""
    return gzip.compress(SOUND.replace("word", "w" * 64 * MIB).encode())


EVENT = b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % (b"on and on " * 5000)


@engines
@pytest.mark.parametrize(
    "reply",
    [
        lambda odd: odd.endless(b"x" * 65536, media_type="application/json"),
        lambda odd: odd.endless(b" " * 65536, begin=b"{", headers={"Content-Length": "9" * 12}),
        whole(bomb(), headers={"Content-Encoding": "gzip"}),
        whole(SOUND.replace("word", "w" * 3 * MIB)),
    ],
    ids=["endless", "as-long-as-it-says", "bomb", "long"],
)
def test_a_reply_beyond_the_limit_is_a_failure_asked_once(
    serve: Callable[[Reply], Odd], name: str, reply: Reply
) -> None:
    server = serve(reply)
    with little_memory():
        found = ask(name, server.base_url, max_reply_mb=2)
    assert isinstance(found, Failure)
    assert (found.kind, found.attempts, server.posts) == ("ENGINE_ERROR", 1, 1)
    assert "larger than 2 MB: see engine.max_reply_mb" in found.message


@pytest.mark.parametrize("piece", [EVENT, b"data: xxxxxxxxxx" * 4096])
def test_a_stream_beyond_the_limit_is_a_failure_asked_once(
    serve: Callable[[Reply], Odd], piece: bytes
) -> None:
    server = serve(lambda odd: odd.endless(piece, media_type="text/event-stream"))
    with little_memory():
        found = ask("openai", server.base_url, stream=True, max_reply_mb=2)
    assert isinstance(found, Failure)
    assert (found.attempts, server.posts) == (1, 1)
    assert "larger than 2 MB" in found.message


@pytest.mark.parametrize(("status", "posts"), [(400, 1), (500, 2)])
def test_of_an_endless_error_the_beginning_is_read(
    serve: Callable[[Reply], Odd], status: int, posts: int
) -> None:
    server = serve(lambda odd: odd.endless(b"oh no " * 10_000, status_code=status))
    with little_memory():
        found = ask("openai", server.base_url)
    assert isinstance(found, Failure)
    assert found.message.startswith(f"HTTP {status}: oh no")
    assert (server.posts, len(found.message)) == (posts, 500)


def test_a_reply_of_just_the_limit_is_read(serve: Callable[[Reply], Odd]) -> None:
    content = SOUND.ljust(MIB)
    assert isinstance(ask("openai", serve(whole(content)).base_url, max_reply_mb=1), Answer)
    assert isinstance(ask("openai", serve(whole(content + " ")).base_url, max_reply_mb=1), Failure)


# -- questions that are no requests --------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*KINDS} - {"openai"}))
@pytest.mark.parametrize(
    "reply",
    [
        lambda odd: odd.endless(b"x" * 65536),
        whole(bomb(), headers={"Content-Encoding": "gzip"}),
        whole("[" * 200_000),
        whole("[" * 400 + "]" * 400),
        whole(r'{"data": [3, null, {"id": "m", "aliases": 3, "fingerprint": {"a\ud83d": NaN}}]}'),
        whole(r'{"data": {"id": "m"}, "models": [{"name": "m", "digest": "\ud83d"}, 3]}'),
        whole('{"n_saved": "3", "n_written": null, "chat_template": [NaN], "models": 3}'),
    ],
    ids=["endless", "bomb", "nested", "deep", "surrogate", "no-list", "llamacpp"],
)
def test_a_server_is_told_by_any_reply_or_refused(
    serve: Callable[[Reply], Odd], name: str, reply: Reply
) -> None:
    server, told = serve(reply), "two\nlines"
    with little_memory():
        try:
            canonical(source(name, server.base_url, max_reply_mb=1).fingerprint())
        except EngineError as refused:
            told = str(refused)
    assert told.count("\n") == 1


def test_a_fetched_body_is_whole_or_refused(serve: Callable[[Reply], Odd]) -> None:
    with httpx.Client() as client:
        url = serve(whole("x" * 1000)).base_url
        assert bounded.fetch(client, "GET", url, limit=1000).text == "x" * 1000
        with pytest.raises(bounded.TooLargeError, match="max_reply_mb"):
            bounded.fetch(client, "GET", url, limit=999)
        url = serve(whole(bomb(), headers={"Content-Encoding": "gzip"})).base_url
        with pytest.raises(httpx.DecodingError, match="compressed"):
            bounded.fetch(client, "GET", url)
        refusing = serve(lambda odd: odd.endless(b"no " * 10_000, status_code=404))
        response = bounded.fetch(client, "POST", refusing.base_url, json={})
        assert response.text.startswith("no no")
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            response.raise_for_status()


def test_the_body_of_a_redirect_is_not_read(serve: Callable[[Reply], Odd]) -> None:
    on = {"Location": "/v1/models"}
    url = serve(lambda odd: odd.endless(b"x" * 65536, status_code=302, headers=on)).base_url
    with (
        httpx.Client(follow_redirects=True, max_redirects=3) as client,
        little_memory(),
        pytest.raises(httpx.TooManyRedirects),
    ):
        bounded.fetch(client, "GET", url)
