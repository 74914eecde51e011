"""Odd requests to the whole application over a tiny model: an answer or a 4xx, never a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pytest_kvbench.policies.table import POLICIES
from pytest_kvbench.server import limits
from pytest_kvbench.server.engine import Engine
from pytest_kvbench.server.protocol import ChatRequest, CompletionRequest, TokenizeRequest
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.server import Served, build_app
from pytest_kvbench.server.worker import Worker
from tests.support.odd_json import odd_values, with_odd_fields
from tests.support.patience import wait_for
from tests.support.tiny_model import tiny_model

pytestmark = pytest.mark.model

CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 2,
}
COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "Say hello.", "max_tokens": 2}
BODIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/v1/chat/completions": (CHAT, list(ChatRequest.model_fields)),
    "/v1/completions": (COMPLETION, list(CompletionRequest.model_fields)),
    "/tokenize": ({"content": "Say hello."}, list(TokenizeRequest.model_fields)),
    "/v1/batches": (
        {"input_file_id": "x", "endpoint": "/v1/completions", "completion_window": "24h"},
        ["metadata"],
    ),
}
FUZZ = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    model = tiny_model()
    worker = Worker(Engine(model, PrefillCache(2**20)), threads=1, shared_rows=32)
    worker.start()
    folder: Path = tmp_path_factory.mktemp("batches")
    app = build_app(Served(model, ("tiny",), {"weights": "tiny"}, worker), folder)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def check(reply: httpx.Response) -> None:
    """A reply that is an answer, or an error that is the request's own."""
    if reply.status_code == 200:
        assert "model_failed" not in reply.text
        return
    assert reply.status_code in (400, 404, 405, 413), reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert len(reply.text) < 5000


def post(http: TestClient, path: str, body: Any) -> httpx.Response:
    return http.post(path, content=json.dumps(body).encode())


@given(st.data())
@FUZZ
def test_no_odd_field_is_a_server_error(http: TestClient, data: Any) -> None:
    path = data.draw(st.sampled_from(sorted(BODIES)))
    body, fields = BODIES[path]
    check(post(http, path, data.draw(with_odd_fields(body, fields))))


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "system", "assistant", "nobody", "sum", ""]),
            "content": st.text(max_size=20)
            | st.lists(
                st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=9)}),
                max_size=3,
            )
            | odd_values(),
        }
    ),
    max_size=3,
)


@given(MESSAGES, st.sampled_from([True, False]))
@FUZZ
def test_no_messages_are_a_server_error(http: TestClient, messages: Any, aware: bool) -> None:
    kv = {"policy": "knorm", "budget": 0.5, "question_aware": aware}
    check(post(http, "/v1/chat/completions", {**CHAT, "messages": messages, "kv": kv}))
    check(post(http, "/tokenize", {"messages": messages}))


TINY = [5e-324, 1e-300, 1e-40, 1e-17, 1e-9, 0.001]
FRACTIONS = st.sampled_from([*TINY, 0.5, 1 - 1e-16, 1.0]) | st.floats(0, 1)


def _arm(name: str) -> st.SearchStrategy[dict[str, Any]]:
    values = st.sampled_from([0, 1, 3, 8, 2**31, 10**30]) | odd_values()
    return st.fixed_dictionaries(
        {
            "policy": st.just(name),
            "budget": FRACTIONS,
            "params": st.dictionaries(st.sampled_from([*POLICIES[name].params, "x"]), values),
            "question_aware": st.booleans(),
            "context_chars": st.none() | st.integers(1, 90),
        }
    )


@given(
    st.lists(st.sampled_from(sorted(POLICIES)).flatmap(_arm), min_size=1, max_size=3),
    st.text("abc ", max_size=90) | st.lists(st.integers(0, 300), max_size=20),
    st.fixed_dictionaries(
        {}, optional={"temperature": FRACTIONS, "top_p": FRACTIONS, "stream": st.booleans()}
    ),
)
@FUZZ
@example([{"policy": "snapkv", "budget": 1e-17, "params": {"window_size": 1}}], "abc", {})
@example([{"policy": "random", "budget": 0.5, "params": {"seed": 2**70}}], "abc", {})
@example([{"policy": "none"}], "abc", {"temperature": 1e-40})
@example([{"policy": "none"}], "abc", {"temperature": 5e-324, "top_p": 0.5})
@example([{"policy": "none"}], "abc", {"top_p": 5e-324})
@example(
    [{"policy": "expected_attention", "budget": 0.5, "params": {"n_future_positions": 10**12}}],
    "a" * 30,
    {},
)
def test_no_arm_and_no_sampling_is_a_server_error(
    http: TestClient, arms: Any, prompt: Any, sampling: Any
) -> None:
    check(post(http, "/v1/completions", {**COMPLETION, "prompt": prompt, "kv": arms, **sampling}))


RAW: dict[str, tuple[dict[str, Any], int]] = {
    "nested": ({"content": b"[" * 200_000}, 400),
    "nested field": ({"content": b'{"model": ' + b'{"a":' * 200_000}, 400),
    "no json": ({"content": b"model=tiny"}, 400),
    "nothing": ({"content": b""}, 400),
    "no utf-8": ({"content": b'{"model": "\xff"}'}, 400),
    "utf-16": ({"content": json.dumps(CHAT).encode("utf-16")}, 400),
    "half a character": ({"content": json.dumps({**CHAT, "model": "\ud800"}).encode()}, 400),
    "5,000 digits": ({"content": b'{"max_tokens": ' + b"9" * 5000 + b"}"}, 400),
    "1e400": ({"content": json.dumps(CHAT)[:-1] + ', "temperature": 1e400}'}, 400),
    "keys twice": ({"content": '{"model": "other",' + json.dumps(CHAT)[1:]}, 200),
    "another type": ({"content": json.dumps(CHAT), "headers": {"content-type": "text/x"}}, 200),
    "a form": ({"data": {"model": "tiny"}}, 400),
    "too large": ({"content": b" " * (limits.MOST_JSON_BYTES + 1)}, 413),
    "too many": ({"json": {**CHAT, "messages": [{"role": "user", "content": 3}] * 20_000}}, 400),
    "too long": ({"json": {**CHAT, "messages": [{"role": "user", "content": "a" * 10**6}]}}, 400),
    "another model": ({"json": {**CHAT, "model": "x" * 10**6}}, 404),
    "a long stop": ({"json": {**CHAT, "stop": "x" * 10_000_000}}, 400),
    "an odd host": ({"json": CHAT, "headers": {"host": "["}}, 200),
}


@pytest.mark.parametrize("name", RAW)
def test_odd_bodies_are_refused(http: TestClient, name: str) -> None:
    sent, status = RAW[name]
    reply = http.post("/v1/chat/completions", **sent)
    assert reply.status_code == status
    check(reply)


BOUNDARY = {"content-type": "multipart/form-data; boundary=x"}
UPLOADS: dict[str, dict[str, Any]] = {
    "json": {"json": {}},
    "no boundary": {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    "another charset": {
        "content": b"--x--",
        "headers": {"content-type": "multipart/form-data; boundary=x; charset=nonsense"},
    },
    "torn": {"content": b"--x\r\nContent-Disposition: form-data; na", "headers": BOUNDARY},
    "no name": {"content": b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"}
    | {"headers": BOUNDARY},
    "a field": {"data": {"file": "x", "purpose": "batch"}},
    "no purpose": {"files": {"file": b"x"}},
    "another purpose": {"files": {"file": b"x"}, "data": {"purpose": "fine-tune"}},
    "many fields": {"data": {f"f{n}": "x" for n in range(2000)}, "files": {"file": b"x"}},
}


@pytest.mark.parametrize("name", UPLOADS)
def test_odd_uploads_are_refused(http: TestClient, name: str) -> None:
    reply = http.post("/v1/files", **UPLOADS[name])
    assert reply.status_code == 400
    check(reply)


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    st.sampled_from(["/v1/kv", "/v1/models", "/v1/files", "/v1/batches", "/health", "/tokenize"]),
    st.sampled_from(["", "/", "/x", "/%00", "/%ff", "/../..", "/" + "x" * 3000, "?limit=x"]),
    st.sampled_from(["testserver", "[", "a:b:c", ""]),
)
@settings(parent=FUZZ, suppress_health_check=[HealthCheck.too_slow])
@example("GET", "/v1/nothing", "", "[")
def test_no_odd_address_is_a_server_error(
    http: TestClient, method: str, path: str, rest: str, host: str
) -> None:
    reply = http.request(method, path + rest, headers={"host": host}, follow_redirects=False)
    if reply.status_code != 307:
        check(reply)


def test_what_goes_wrong_with_one_reply_is_not_its_neighbours(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_kvbench.server.text import TextStream

    plain = TextStream.push

    def push(stream: TextStream, token: int) -> str:
        if stream._stops and len(stream._ids) > 5:
            raise ValueError("no such text")
        return plain(stream, token)

    monkeypatch.setattr(TextStream, "push", push)
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/completions"}
        | {"body": {**COMPLETION, "max_tokens": 20, **({"stop": "z"} if n == 3 else {})}}
        for n in range(8)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    sent = http.post("/v1/files", files={"file": content}, data={"purpose": "batch"}).json()
    asked = {"input_file_id": sent["id"], "endpoint": "/v1/completions"}
    batch = http.post("/v1/batches", json={**asked, "completion_window": "24h"}).json()

    def ended() -> Any:
        known = http.get(f"/v1/batches/{batch['id']}").json()
        return known if known["status"] in ("completed", "failed") else None

    batch = wait_for(ended)
    assert batch["request_counts"] == {"total": 8, "completed": 7, "failed": 1}
    failed = http.get(f"/v1/files/{batch['error_file_id']}/content").json()
    assert failed["custom_id"] == "r3"
    assert "no such text" in failed["response"]["body"]["error"]["message"]
