"""What a request may look like: everything else is a 400 that names the field. No torch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pytest_kvbench.errors import UsageError
from pytest_kvbench.policies.table import POLICIES
from pytest_kvbench.server import limits
from pytest_kvbench.server.limits import BodyLimit
from pytest_kvbench.server.protocol import (
    ApiError,
    BatchRequest,
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    parse,
)
from tests.support.odd_json import odd_values, with_odd_fields

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
COMPLETION = {"model": "m", "prompt": "x"}
BATCH = {"input_file_id": "f", "endpoint": "/v1/completions", "completion_window": "24h"}
BODIES = {
    ChatRequest: CHAT,
    CompletionRequest: COMPLETION,
    TokenizeRequest: {"content": "x"},
    BatchRequest: BATCH,
}


def refusal(kind: Any, body: bytes) -> ApiError | None:
    try:
        parse(kind, body)
    except ApiError as error:
        return error
    return None


ODD_BODIES = st.sampled_from(list(BODIES)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), with_odd_fields(BODIES[kind], kind.model_fields) | odd_values()
    )
)


@given(ODD_BODIES)
@settings(max_examples=80)
def test_whatever_is_sent_is_parsed_or_refused_in_openais_form(sent: tuple[Any, Any]) -> None:
    kind, body = sent
    error = refusal(kind, json.dumps(body).encode())
    if error is not None:
        assert error.status == 400
        assert set(error.body["error"]) == {"message", "type", "param", "code"}
        assert error.body["error"]["type"] == "invalid_request_error"
        json.dumps(error.body, allow_nan=False, ensure_ascii=False).encode()


@given(st.binary(max_size=50))
@example(b"[" * 200_000)
@example(b'{"a":' * 200_000)
@example(b'{"model": "\xff"}')
@example(b'{"model": "\\ud800"}')
@example(b'{"n": ' + b"9" * 5000 + b"}")
@example(b"")
def test_bytes_that_are_no_request_are_refused(body: bytes) -> None:
    error = refusal(ChatRequest, body)
    assert error is not None
    assert error.status == 400


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"kv": {"budget": float("nan")}}, "kv.budget"),
        ({"kv": [{}, {"budget": float("-inf")}]}, "kv.1.budget"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 3.0}, "max_tokens"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": "x" * 1025}, "stop"),
        ({"stop": ["x", "x" * 10_000_000]}, "stop.1"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content"),
    ],
)
def test_a_refusal_names_the_field(change: dict[str, Any], field: str) -> None:
    error = refusal(ChatRequest, json.dumps({**CHAT, **change}).encode())
    assert error is not None
    assert str(error.body["error"]["param"]).startswith(field)
    assert field.split(".")[0] in error.body["error"]["message"]


FORCED = {**CHAT, "temperature": 0, "kv": [{}, {"policy": "snapkv"}], "force": {"reference": None}}


def test_a_reply_may_be_forced() -> None:
    for reference in (None, [1, 2, 3]):
        body = json.dumps({**FORCED, "force": {"reference": reference}}).encode()
        asked = parse(ChatRequest, body)
        assert asked.force is not None
        assert asked.force.reference == reference


@pytest.mark.parametrize(
    ("change", "field", "valid"),
    [
        ({"kv": {"policy": "none"}}, "kv", "begins with policy none"),
        ({"kv": [{"policy": "snapkv"}, {}]}, "kv", "begins with policy none"),
        ({"temperature": 0.5}, "temperature", "must be 0"),
        ({"temperature": None}, "temperature", "must be 0"),
        ({"stream": True}, "stream", "must be false"),
        ({"stop": "."}, "stop", "left out"),
        ({"force": {"reference": []}}, "force.reference", "at least 1"),
        ({"force": {"reference": [-1]}}, "force.reference.0", "greater than or equal to 0"),
        ({"force": {"reference": [1.0]}}, "force.reference.0", "valid integer"),
        ({"force": {"tokens": [1]}}, "force.tokens", "not permitted"),
    ],
)
def test_what_cannot_be_forced_is_refused_by_name(
    change: dict[str, Any], field: str, valid: str
) -> None:
    error = refusal(ChatRequest, json.dumps({**FORCED, **change}).encode())
    assert error is not None
    assert str(error.body["error"]["param"]) == field
    assert error.body["error"]["message"].startswith(f"{field}: ")
    assert valid in error.body["error"]["message"]


def test_a_refusal_of_very_much_is_short() -> None:
    kv = {"x" * 2_000_000: 1}
    many = {"prompt": ["no"] * 200_000}
    for kind, body in ((ChatRequest, {**CHAT, "kv": kv}), (CompletionRequest, COMPLETION | many)):
        error = refusal(kind, json.dumps(body).encode())
        assert error is not None
        assert len(json.dumps(error.body)) < 5000


@given(
    st.sampled_from(sorted(POLICIES)).flatmap(
        lambda name: st.tuples(
            st.just(POLICIES[name]),
            st.dictionaries(st.sampled_from([*POLICIES[name].params, "\ud800"]), odd_values()),
        )
    )
)
@settings(max_examples=50)
def test_odd_parameters_of_a_policy_are_refused_or_within_their_range(given: Any) -> None:
    policy, params = given
    try:
        values = policy.with_defaults(params)
    except UsageError:
        return
    for name, param in policy.params.items():
        assert isinstance(values[name], bool) or param.low <= values[name] <= param.high


async def _read(request: Request) -> Response:
    return JSONResponse(len(await request.body()))


async def _refused(_request: Request, error: Any) -> Response:
    return JSONResponse(error.body, status_code=error.status)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    monkeypatch.setattr(limits, "MOST_JSON_BYTES", 1000)
    app = Starlette(
        routes=[Route("/v1/completions", _read, methods=["POST"])],
        exception_handlers={ApiError: _refused},
    )
    with TestClient(BodyLimit(app)) as http:

        def send(count: int) -> Any:
            bits = (b"x" for _ in range(count))
            return http.post("/v1/completions", content=b"x" * count if declared else bits)

        assert send(1000).json() == 1000
        reply = send(1001)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "too_large"
    assert "1000" in reply.json()["error"]["message"]
