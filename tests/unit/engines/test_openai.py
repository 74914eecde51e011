"""OpenAI-compatible servers as engines, against stand-ins that speak their wire formats."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from pytest_kvbench.engines import engine_source, proof_of, stop_all
from pytest_kvbench.engines.base import EngineSource
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.files import run_folder
from pytest_kvbench.pipeline import plan
from pytest_kvbench.records import Answer, Arm, Failure, Prompt, Request, Sampling
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from tests.support.wire import Wire

RUN = f"unit{os.getpid()}"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("KVBENCH_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield
    stop_all(run_folder(RUN))


@pytest.fixture
def serve() -> Iterator[Callable[..., Wire]]:
    servers: list[Wire] = []

    def start(kind: str = "openai", kv_type: str = "auto", **more: Any) -> Wire:
        servers.append(Wire(kind, kv_type, **more))
        return servers[-1].__enter__()

    yield start
    for server in servers:
        server.__exit__()


def experiment(name: str, policies: tuple[str, ...] = ("none",), **engine: Any) -> Experiment:
    settings = {"name": name, "model": "m", "retries": 1, "timeout_s": 20, **engine}
    inline = {"group": "g", "tasks": ["niah/single"], "kv": {"policies": policies}}
    return load_experiment(None, inline={**inline, "engine": settings}).experiment


def source(of: Experiment, share: int = 1) -> EngineSource:
    return engine_source(
        of.engine,
        of.kv,
        run_id=RUN,
        owner_pid=os.getpid(),
        log=Path(os.devnull),
        share=share,
    )


def request(policy: str = "none", budget: float = 1.0, **prompt: Any) -> Request:
    arm = Arm("e", "m", "f", policy, budget, Sampling(), "t")
    asked = Prompt("the lake lies still ", "Say word", 8, **prompt)
    return Request(arm, "t", 0, f"e-{policy}", 0, asked)


def answers(of: Experiment, *requests: Request) -> list[Answer | Failure]:
    async def ask() -> list[Answer | Failure]:
        engine = source(of).start()
        try:
            found = await asyncio.gather(*(engine.answer([r]) for r in requests))
        finally:
            await engine.aclose()
        return [outcome for batch in found for outcome in batch]

    return asyncio.run(ask())


def answer(of: Experiment, asked: Request | None = None) -> Answer:
    (found,) = answers(of, asked or request())
    assert isinstance(found, Answer), found
    return found


def failure(of: Experiment, asked: Request | None = None) -> Failure:
    (found,) = answers(of, asked or request())
    assert isinstance(found, Failure), found
    return found


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "extras"),
    [
        ("openai", set()),
        ("llamacpp", {"cache_prompt", "top_k", "min_p", "repeat_penalty"}),
        ("vllm", {"top_k", "min_p", "repetition_penalty"}),
        ("sglang", {"top_k", "min_p", "repetition_penalty"}),
        ("ollama", set()),
    ],
)
def test_each_kind_gets_its_own_extras(
    serve: Callable[..., Wire], kind: str, extras: set[str]
) -> None:
    server = serve(kind)
    found = answer(experiment(kind, base_url=server.base_url))
    assert (found.text, found.finish_reason) == ("word", "stop")
    plain = {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}
    assert set(server.asked[0]) == plain | extras
    assert server.asked[0]["messages"] == [{"role": "user", "content": request().prompt.text}]


@pytest.mark.parametrize(
    ("api", "chat", "field"),
    [
        ("auto", True, "messages"),
        ("auto", False, "prompt"),
        ("chat", False, "messages"),
        ("completions", True, "prompt"),
    ],
)
def test_the_prompt_or_the_setting_decides_the_api(
    serve: Callable[..., Wire], api: str, chat: bool, field: str
) -> None:
    server = serve()
    of = experiment("openai", base_url=server.base_url, api=api)
    assert answer(of, request(chat=chat)).text == "word"
    assert field in server.asked[0]


def test_fields_are_added_and_taken_away(serve: Callable[..., Wire]) -> None:
    server = serve()
    extra = {"max_tokens": None, "max_completion_tokens": 9}
    answer(experiment("openai", base_url=server.base_url, extra_body=extra))
    assert "max_tokens" not in server.asked[0]
    assert server.asked[0]["max_completion_tokens"] == 9


# -- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_a_stream_gives_the_time_to_the_first_token(serve: Callable[..., Wire], chat: bool) -> None:
    server = serve()
    found = answer(experiment("openai", base_url=server.base_url, stream=True), request(chat=chat))
    seen = found.telemetry
    assert (found.text, found.finish_reason, seen.prompt_tokens) == ("word", "stop", 6)
    assert seen.ttft_s is not None
    assert 0 < seen.ttft_s <= seen.latency_s


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (lambda events: events[:3], "ended before"),
        (lambda events: [*events[:2], "data: {oops"], "not an event"),
        (lambda events: [*events[:2], 'data: {"error": {"message": "no memory"}}'], "no memory"),
        (lambda events: [*events[:2], 'error: {"message": "no memory"}'], "no memory"),
    ],
)
def test_a_broken_stream_is_tried_again_then_a_failure(
    serve: Callable[..., Wire], pieces: Any, says: str
) -> None:
    server = serve(pieces=pieces)
    found = failure(experiment("openai", base_url=server.base_url, stream=True))
    assert (found.kind, found.attempts, len(server.asked)) == ("ENGINE_ERROR", 2, 2)
    assert says in found.message


def test_a_server_that_does_not_stream_is_taken_at_its_word(serve: Callable[..., Wire]) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "whole"}}
    server = serve(trouble=lambda n, body: JSONResponse({"choices": [choice]}))
    found = answer(experiment("openai", base_url=server.base_url, stream=True))
    assert (found.text, found.telemetry.ttft_s) == ("whole", None)


def test_no_content_is_an_empty_answer_and_no_choice_a_failure(serve: Callable[..., Wire]) -> None:
    replies = iter([{"choices": [{"message": {"content": None}}]}, {"choices": []}])
    server = serve(trouble=lambda n, body: JSONResponse(next(replies)))
    of = experiment("openai", base_url=server.base_url)
    assert (answer(of).text, answer_kind(of)) == ("", "ENGINE_ERROR")


def answer_kind(of: Experiment) -> str:
    return failure(of).kind


def test_a_prompt_beyond_the_context_says_what_to_raise(serve: Callable[..., Wire]) -> None:
    error = {"type": "exceed_context_size_error", "message": "too long", "code": 400}
    server = serve(
        "llamacpp", trouble=lambda n, body: JSONResponse({"error": error}, status_code=400)
    )
    found = failure(experiment("llamacpp", base_url=server.base_url))
    assert "too long: raise engine.launch.context" in found.message
    assert len(server.asked) == 1


# -- proof ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "control", "policy", "budget", "served", "proof"),
    [
        ("vllm", "auto", "fp8", 0.5, "fp8", "proven"),
        ("vllm", "auto", "fp8", 0.5, "auto", "not-applied"),
        ("vllm", "fp8", "fp8", 0.5, "fp8", "not-applied"),
        ("sglang", "auto", "fp8_e5m2", 0.5, "fp8_e5m2", "proven"),
        ("llamacpp", "f16", "q8_0", 34 / 64, "q8_0", "proven"),
        ("llamacpp", "f16", "q4_0", 18 / 64, "f16", "not-applied"),
        ("ollama", "f16", "q8_0", 34 / 64, "q8_0", "unverified"),
        ("openai", "auto", "q8_0", 34 / 64, "q8_0", "unverified"),
    ],
)
def test_servers_prove_what_they_serve(
    serve: Callable[..., Wire],
    kind: str,
    control: str,
    policy: str,
    budget: float,
    served: str,
    proof: str,
) -> None:
    urls = {"none": serve(kind, control).base_url, policy: serve(kind, served).base_url}
    of = experiment(kind, (policy,), endpoints=urls)
    asked = request(policy, budget)
    found = answer(of, asked)
    assert proof_of(asked.arm, found.telemetry) == proof


@pytest.mark.parametrize(("kind", "policy"), [("vllm", "fp8"), ("sglang", "fp8_e5m2")])
@pytest.mark.parametrize(
    ("really", "tells_memory", "proof"),
    [("", True, "proven"), ("auto", True, "not-applied"), ("auto", False, "unverified")],
)
def test_a_type_that_a_server_names_is_no_proof_but_its_memory_is(
    serve: Callable[..., Wire], kind: str, policy: str, really: str, tells_memory: bool, proof: str
) -> None:
    full = serve(kind, tells_memory=tells_memory)
    small = serve(kind, really or policy, claims=policy, tells_memory=tells_memory)
    of = experiment(kind, (policy,), endpoints={"none": full.base_url, policy: small.base_url})
    asked = request(policy, 0.5)
    assert proof_of(asked.arm, answer(of, asked).telemetry) == proof


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
def test_sglang_says_who_it_is_under_its_new_name_or_its_old(
    serve: Callable[..., Wire], path: str
) -> None:
    urls = {
        "none": serve("sglang", tells_at=path).base_url,
        "fp8_e5m2": serve("sglang", "fp8_e5m2", tells_at=path).base_url,
    }
    asked = request("fp8_e5m2", 0.5)
    found = answer(experiment("sglang", ("fp8_e5m2",), endpoints=urls), asked)
    assert proof_of(asked.arm, found.telemetry) == "proven"


@pytest.mark.parametrize(
    ("served", "bits", "proof"),
    [
        ("fp4_e2m1", 4.5, "proven"),
        ("auto", 4.5, "not-applied"),
        ("fp4_e2m1", 8, "not-applied"),
    ],
)
def test_a_type_of_given_bits_is_proven_by_the_memory_too(
    serve: Callable[..., Wire], served: str, bits: float, proof: str
) -> None:
    urls = {"none": serve("sglang").base_url, "fp4_e2m1": serve("sglang", served).base_url}
    kv = {"policies": ["fp4_e2m1"], "params": {"fp4_e2m1": {"bits": bits}}}
    engine = {"name": "sglang", "model": "m", "retries": 1, "endpoints": urls}
    inline = {"group": "g", "tasks": ["niah/single"], "kv": kv, "engine": engine}
    of = load_experiment(None, inline=inline).experiment
    asked = request("fp4_e2m1", bits / 16)
    assert proof_of(asked.arm, answer(of, asked).telemetry) == proof


def test_saved_slots_give_the_bytes_of_each_prompt(serve: Callable[..., Wire]) -> None:
    urls = {"none": serve("llamacpp", "f16").base_url, "q8_0": serve("llamacpp", "q8_0").base_url}
    found = answer(experiment("llamacpp", ("q8_0",), endpoints=urls), request("q8_0", 34 / 64))
    seen = found.telemetry
    assert seen.prompt_tokens == 6
    assert (seen.kept_bytes, seen.full_bytes) == (6 * 360 * 34, 6 * 360 * 64)


# -- identity ------------------------------------------------------------------------------------


def test_a_changed_server_changes_its_own_arm_alone(serve: Callable[..., Wire]) -> None:
    control, same, other = (serve("vllm", t).base_url for t in ("auto", "fp8", "auto"))

    def hashes(treated: str) -> list[str]:
        of = experiment("vllm", ("fp8",), endpoints={"none": control, "fp8": treated})
        target = plan.Target(source(of).fingerprint())
        return [target.of(of, cell) for cell in plan.cells(of)[:2]]

    (c1, t1), (c2, t2) = hashes(same), hashes(other)
    assert c1 == c2
    assert t1 != t2


@pytest.mark.parametrize(
    "changed",
    [
        {"extra_body": {"top_k": 9}},
        {"api": "completions"},
        {"declared": {"dtype": "x"}},
        {"headers": {"X-Route": "big"}},
    ],
)
def test_what_we_send_and_declare_identifies_too(
    serve: Callable[..., Wire], changed: dict[str, Any]
) -> None:
    url = serve("vllm").base_url
    before = source(experiment("vllm", base_url=url)).fingerprint()
    after = source(experiment("vllm", base_url=url, **changed)).fingerprint()
    assert before != after


def test_a_server_that_says_otherwise_than_declared_is_refused(serve: Callable[..., Wire]) -> None:
    url = serve("vllm", version="2").base_url
    of = experiment("vllm", base_url=url, declared={"server": "vllm 1"})
    with pytest.raises(
        EngineError, match=r"declared\.server is 'vllm 1', the server says 'vllm 2'"
    ):
        source(of).fingerprint()


@pytest.mark.parametrize("kind", ["vllm", "ollama"])
def test_a_model_that_is_not_served_is_named(serve: Callable[..., Wire], kind: str) -> None:
    of = experiment(kind, base_url=serve(kind, model="other").base_url)
    with pytest.raises(EngineError, match=r"'m' is not .*\n.*: other"):
        source(of).fingerprint()


def test_a_server_that_is_not_there_is_two_lines() -> None:
    with pytest.raises(EngineError, match="no server answers") as caught:
        source(experiment("vllm", base_url="http://127.0.0.1:9/v1")).fingerprint()
    assert len(str(caught.value).splitlines()) == 2


# -- tokenizer, workers, keys --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_the_control_server_counts_tokens(serve: Callable[..., Wire], kind: str) -> None:
    of = experiment(kind, base_url=serve(kind).base_url)
    assert load_tokenizer("auto", server=source(of).tokenizer_server()).count(["a b c"]) == [3]


def test_a_server_that_counts_no_tokens_names_other_tokenizers(serve: Callable[..., Wire]) -> None:
    of = experiment("openai", base_url=serve().base_url)
    with pytest.raises(EngineError, match="tiktoken:NAME or approximate") as caught:
        load_tokenizer("auto", server=source(of).tokenizer_server())
    assert len(str(caught.value).splitlines()) == 2


def test_one_server_at_a_time_serves_one_worker() -> None:
    of = experiment("llamacpp", ("q8_0",), model="smollm2-135m", launch={"at_once": 1})
    source(of).check()
    with pytest.raises(UsageError, match=r"at_once: 1 server at a time cannot serve 2 workers"):
        source(of, share=2).check()


@pytest.mark.parametrize("name", ["KVBENCH_API_KEY", "OPENAI_API_KEY", "MY_KEY"])
def test_the_key_comes_from_the_environment(
    serve: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "sesame-123")
    server = serve()
    named = {"api_key_env": name} if name == "MY_KEY" else {}
    answer(experiment("openai", base_url=server.base_url, **named))
    assert set(server.keys) == {"Bearer sesame-123"}


def test_a_key_that_is_named_must_be_set() -> None:
    of = experiment("openai", base_url="http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    with pytest.raises(UsageError, match="MY_KEY is not set"):
        source(of).check()


def test_a_key_that_a_variable_brought_into_the_experiment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVBENCH_API_KEY", "sesame-123")
    of = experiment("openai", base_url="http://x/v1", extra_body={"user": "sesame-123"})
    with pytest.raises(UsageError, match="holds the API key") as caught:
        source(of).check()
    assert "sesame" not in str(caught.value)


def test_the_key_is_in_no_file_and_no_output(
    serve: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    key = "sesame-4711"
    monkeypatch.setenv("KVBENCH_API_KEY", key)

    def refuse(number: int, body: dict[str, Any]) -> Response | None:
        wrong = {"error": {"message": f"Incorrect API key provided: {key}"}}
        return JSONResponse(wrong, status_code=401) if number % 4 == 0 else None

    control, treated = serve(trouble=refuse), serve(trouble=refuse)
    rows = "".join(
        f'{{"question": "Say w{n}", "context": "text {n}", "answers": ["w{n}"]}}\n'
        for n in range(8)
    )
    (pytester.path / "words.jsonl").write_text(rows)
    (pytester.path / "exp.yaml").write_text(
        f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 1, per_bin: 8}}
kv: {{policies: [q8_0]}}
engine:
  name: openai
  model: m
  endpoints: {{none: "{control.base_url}", q8_0: "{treated.base_url}"}}
tokenizer: approximate
"""
    )
    pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml")
        def test_quality(cell, control):
            cell.compare(control).check()
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:benchmark", "-n", "0", "--kvbench-report", "-v", timeout=120
    )
    assert set(control.keys) == {f"Bearer {key}"}
    assert key not in result.stdout.str() + result.stderr.str()
    files = [file for file in pytester.path.rglob("*") if file.is_file()]
    contents = {file.name: file.read_bytes() for file in files}
    assert {"kvbench.sqlite", "summary.json", "report.md"} <= set(contents)
    assert b"Incorrect API key provided: ***" in contents["kvbench.sqlite"]
    assert not [name for name, content in contents.items() if key.encode() in content]


def test_an_arm_whose_server_is_down_fails_alone(serve: Callable[..., Wire]) -> None:
    urls = {"none": serve("vllm").base_url, "fp8": "http://127.0.0.1:9/v1"}
    urls["fp8_e5m2"] = serve("vllm", "fp8_e5m2").base_url
    asked = request(), request("fp8", 0.5), request("fp8_e5m2", 0.5)
    full, down, other = answers(experiment("vllm", ("fp8", "fp8_e5m2"), endpoints=urls), *asked)
    assert isinstance(full, Answer)
    assert isinstance(other, Answer)
    assert isinstance(down, Failure)
    assert "no server answers at http://127.0.0.1:9" in down.message


def test_without_the_control_s_server_no_arm_is_asked(serve: Callable[..., Wire]) -> None:
    up = serve("vllm", "fp8")
    urls = {"none": "http://127.0.0.1:9/v1", "fp8": up.base_url}
    with pytest.raises(EngineError, match="no server answers at"):
        answers(experiment("vllm", ("fp8",), endpoints=urls), request("fp8", 0.5))
    assert not up.asked
