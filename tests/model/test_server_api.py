"""The API as its users see it: the OpenAI SDK, streams, errors, tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from pytest_kvbench.engines.base import TokenizerServer
from pytest_kvbench.server import weights
from pytest_kvbench.server.limits import MOST_JSON_BYTES
from pytest_kvbench.server.protocol import LONGEST_STOP, MOST_STOPS
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from tests.model.conftest import MODEL, Server, parts

pytestmark = pytest.mark.model


@pytest.fixture
def sdk(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=300)


def test_the_openai_sdk_chats(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=12,
        extra_body={"kv": [{"policy": "none"}, {"policy": "knorm", "budget": 0.9}]},
    )
    assert "Paris" in (reply.choices[0].message.content or "")
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[1].kv["policy"] == "knorm"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 0


def test_the_openai_sdk_streams_a_sweep(sdk: openai.OpenAI, server: Server) -> None:
    arms = [{"policy": "none"}, {"policy": "snapkv", "budget": 0.5}]
    stream = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": parts(2)}],
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"kv": arms},
    )
    texts, ends, caches, usage = ["", ""], {}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            caches.setdefault(choice.index, getattr(choice, "kv", None))
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    whole = server.chat(parts(2), kv=arms, max_tokens=12).json()
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert caches == {index: choice["kv"] for index, choice in enumerate(whole["choices"])}
    assert ends == {c["index"]: c["finish_reason"] for c in whole["choices"]}
    assert usage is not None
    assert usage.completion_tokens == whole["usage"]["completion_tokens"]


def test_the_openai_sdk_completes_whole_and_streamed(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0}
    whole = sdk.completions.create(**asked, max_tokens=6)
    pieces = [chunk.choices[0].text for chunk in sdk.completions.create(**asked, stream=True)]
    assert "Paris" in whole.choices[0].text
    assert "".join(pieces).startswith(whole.choices[0].text)


def test_the_openai_sdk_lists_models_and_gets_errors(sdk: openai.OpenAI, server: Server) -> None:
    (model,) = sdk.models.list().data
    assert model.id == MODEL
    assert model.fingerprint == server.address["fingerprint"]
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            extra_body={"kv": {"policy": "snapkw", "budget": 0.5}},
        )
    assert unknown.value.code == "unknown_policy"
    assert "snapkv" in unknown.value.message


def test_the_fingerprint_is_the_one_a_client_works_out(server: Server) -> None:
    from pytest_kvbench.server import weights

    folder = weights.materialise(weights.resolve(MODEL))
    assert weights.fingerprint_parts(folder, "float32", "auto") == server.address["fingerprint"]


HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
BAD_REQUESTS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "unknown policy": ({"kv": {"policy": "x"}}, "unknown_policy", ["'x'", "snapkv, knorm"]),
    "unknown parameter": (
        {"kv": {"policy": "snapkv", "budget": 0.5, "params": {"window": 3}}},
        "invalid_params",
        ["'window'", "window_size, kernel_size"],
    ),
    "bad parameter": (
        {"kv": {"policy": "snapkv", "budget": 0.5, "params": {"kernel_size": 4}}},
        "invalid_params",
        ["kernel_size is 4", "odd integer"],
    ),
    "budget of zero": ({"kv": {"policy": "knorm", "budget": 0}}, "invalid_budget", ["budget is 0"]),
    "budget over one": ({"kv": {"policy": "knorm", "budget": 1.5}}, "invalid_budget", ["1.5"]),
    "a cut control": ({"kv": {"policy": "none", "budget": 0.5}}, "invalid_budget", ["everything"]),
    "unknown kv field": ({"kv": {"budgets": 1}}, "invalid_value", ["kv.budgets"]),
    "no arms": ({"kv": []}, "invalid_value", ["kv"]),
    "prompt too short": (
        {"kv": {"policy": "snapkv", "budget": 0.5}},
        "prompt_too_short",
        ["65 tokens", "window_size"],
    ),
    "context exceeded": (
        {"messages": [{"role": "user", "content": "a b " * 4500}]},
        "context_length_exceeded",
        ["8192", "9031"],
    ),
    "too many new tokens": ({"max_tokens": 8192}, "context_length_exceeded", ["8192"]),
    "wrong type": ({"max_tokens": "16"}, "invalid_value", ["max_tokens", "integer"]),
    "temperature below zero": ({"temperature": -1}, "invalid_value", ["temperature"]),
    "no messages": ({"messages": []}, "invalid_value", ["messages"]),
    "image part": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
        "invalid_value",
        ["messages.0.content"],
    ),
    "too many choices": ({"n": 3}, "invalid_value", ["n is 3"]),
    "unserved field": ({"logit_bias": {"5": 1}}, "invalid_value", ["logit_bias"]),
    "no question": (
        {"kv": {"policy": "knorm", "budget": 0.5, "question_aware": False}},
        "no_question",
        ["list of text parts", "context_chars"],
    ),
    "budget below the question": (
        {
            "messages": [{"role": "user", "content": parts(0)}],
            "kv": {"policy": "knorm", "budget": 0.01, "question_aware": False},
        },
        "invalid_budget",
        ["question alone has", "at least"],
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_told_what_is_wrong(server: Server, name: str) -> None:
    change, code, words = BAD_REQUESTS[name]
    reply = server.post("/v1/chat/completions", {**HI, **change})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert [word for word in words if word not in error["message"]] == []


def test_odd_bodies_are_refused_and_the_server_goes_on(server: Server) -> None:
    url = "/v1/chat/completions"
    replies = [
        server.http.post(url, content=b"[" * 200_000),
        server.http.post(url, content=b'{"model": "\xff"}'),
        server.http.post(url, content=json.dumps({**HI, "model": "\ud800"})),
        server.post(url, {**HI, "stop": "x" * 10_000_000}),
        server.post(url, {**HI, "kv": {"policy": "knorm", "budget": 1e-300}}),
        server.http.post(url, content=b" " * (MOST_JSON_BYTES + 1)),
        server.post(url, {**HI, "temperature": 1e-40, "stop": ["y" * LONGEST_STOP] * MOST_STOPS}),
    ]
    assert [reply.status_code for reply in replies] == [400, 400, 400, 400, 400, 413, 200]
    for reply in replies[:-1]:
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_malformed_json_unknown_urls_and_methods_get_error_bodies(server: Server) -> None:
    replies = [
        server.http.post("/v1/chat/completions", content=b'{"model": '),
        server.http.post("/v1/embeddings", json={}),
        server.http.get("/v1/chat/completions"),
    ]
    assert [reply.status_code for reply in replies] == [400, 404, 405]
    assert [reply.json()["error"]["code"] for reply in replies] == [
        "invalid_json",
        "unknown_url",
        "unknown_url",
    ]


def test_neutral_and_unknown_fields_are_accepted(server: Server) -> None:
    more = {"frequency_penalty": 0.0, "logprobs": False, "user": "me", "response_format": None}
    assert server.post("/v1/chat/completions", {**HI, **more}).status_code == 200


def test_completions_split_at_context_chars(server: Server) -> None:
    context, question = (part["text"] for part in parts(4))
    body = {"model": MODEL, "prompt": context + question, "max_tokens": 4, "temperature": 0}
    arm = {"policy": "knorm", "budget": 0.5, "question_aware": False}
    split = {**arm, "context_chars": len(context)}
    choice = server.post("/v1/completions", {**body, "kv": split}).json()["choices"][0]
    assert choice["kv"]["achieved"] == pytest.approx(0.5, rel=0.02)
    refused = server.post("/v1/completions", {**body, "kv": arm})
    assert refused.json()["error"]["code"] == "no_question"


def test_tokenize_counts_as_the_model_does(server: Server) -> None:
    digits = server.post("/tokenize", {"content": "12345"}).json()
    chat = server.post("/tokenize", {"messages": HI["messages"]}).json()
    reply = server.post("/v1/chat/completions", HI).json()
    assert digits["count"] == len(digits["tokens"]) == 5  # every digit is a token of its own
    assert chat["count"] == reply["usage"]["prompt_tokens"]
    assert server.post("/tokenize", {}).status_code == 400


def test_prompts_made_and_cut_by_its_tokenize_are_those_of_its_tokenizer_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = weights.materialise(weights.resolve(MODEL))
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path))
    source = TokenizerServer(MODEL, lambda: server.base_url)
    served, local = load_tokenizer("auto", server=source), load_tokenizer("auto", serving=folder)
    spec = BinSpec(2, (2,), range=(256, 1024))
    made, wanted = (
        build_task_manifest(get_task("niah/single"), spec, tokenizer, 0).entries
        for tokenizer in (served, local)
    )
    assert made == wanted
    text = "The lake 湖水平静 🙂🙂 lies still.\n" * 50
    assert served.middle_cut(text, 99) == local.middle_cut(text, 99)


def test_token_ids_are_a_prompt_too(server: Server) -> None:
    text = "The capital of France is"
    tokens = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    body = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    by_text = server.post("/v1/completions", {**body, "prompt": text}).json()
    by_ids = server.post("/v1/completions", {**body, "prompt": tokens}).json()
    assert by_ids["choices"][0]["text"] == by_text["choices"][0]["text"]
    assert server.post("/v1/completions", {**body, "prompt": [10**6]}).status_code == 400


def test_health_and_policies_are_listed(server: Server) -> None:
    assert server.http.get("/health").json() == {"status": "ok", "waiting": 0}
    policies = {one["name"]: one for one in server.http.get("/v1/kv").json()["policies"]}
    assert policies["snapkv"]["params"]["window_size"]["default"] == 64
    assert policies["snapkv"]["min_tokens"] == 65
    assert policies["snapkv"]["paper"] == "arXiv:2404.14469"


def test_a_stream_ends_with_done_and_carries_timings(server: Server) -> None:
    body = {**HI, "stream": True, "stream_options": {"include_usage": True}}
    text = server.post("/v1/chat/completions", body).text
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    timings = json.loads(lines[-2])["timings"]
    assert set(timings) == {"queue_s", "prefill_s", "compress_s", "decode_s"}
    assert timings["prefill_s"] > 0


def test_a_client_that_leaves_frees_the_line(server: Server) -> None:
    long = {**HI, "max_tokens": 4000, "temperature": 5.0}
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.base_url}/chat/completions", json=long, timeout=0.5)
    reply = server.post("/v1/chat/completions", HI).json()
    assert reply["timings"]["queue_s"] < 5  # 4,000 tokens take over a minute
