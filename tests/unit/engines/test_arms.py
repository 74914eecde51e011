"""Which policies an engine takes, their budgets and their servers; what identifies servers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.engines import arms, fingerprint
from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.load import Declared, load_experiment
from pytest_kvbench.pipeline import plan

URL = "http://127.0.0.1:1/v1"
MINE = "http://127.0.0.1:2/v1"


def declared(
    policies: list[str], *, kv: Any = None, length: int | None = None, **engine: Any
) -> Declared:
    inline = {
        "group": "g",
        "tasks": ["niah/single"],
        "bins": {"n": 1},
        "kv": {"policies": policies, "budgets": [1.0, 0.5, 0.2], **(kv or {})},
        "engine": engine,
        "sampling": {"max_tokens": length},
    }
    return load_experiment(None, inline=inline)


def cells(it: Declared) -> list[tuple[str, float]]:
    plan.check(it)
    return [(cell.policy, cell.budget) for cell in plan.cells(it.experiment)]


def refused(it: Declared, *says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        plan.check(it)
    message = str(caught.value)
    assert len(message.splitlines()) == 2
    assert all(part in message for part in says), message


def test_a_kv_type_makes_one_cell_at_its_real_bytes() -> None:
    expected = [("none", 1), ("q8_0", 34 / 64), ("q5_1", 24 / 64), ("q5_0", 22 / 64)]
    expected += [("q4_1", 20 / 64), ("q4_0", 18 / 64)]
    policies = [policy for policy, _ in expected[1:]]
    assert cells(declared(policies, name="llamacpp")) == expected


def test_keys_and_values_of_different_types_share_the_bytes() -> None:
    it = declared(["q8_0"], name="llamacpp", kv={"params": {"q8_0": {"type_v": "f16"}}})
    assert cells(it) == [("none", 1), ("q8_0", (34 / 64 + 1) / 2)]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("-ctk {kv} -ctv {kv}", 8.5 / 16),
        ("-ctk {kv}", (8.5 + 16) / 32),
        ("--cache-type-v '{kv}'", (8.5 + 16) / 32),
        ("-ctk {policy} -ctv f16", (8.5 + 16) / 32),
        ("-ctk {kv} -ctv q4_0", (8.5 + 4.5) / (16 + 4.5)),
        ("--cache-type-k {kv} --cache-type-v f32", (8.5 + 32) / (16 + 32)),
        ("--kv {kv}", 8.5 / 16),
    ],
)
@pytest.mark.parametrize("name", ["llamacpp", "openai"])
def test_a_command_keeps_the_bytes_of_the_types_that_it_names(
    name: str, options: str, kept: float
) -> None:
    command = f"llama-server --port {{port}} {options}"
    it = declared(["q8_0"], name=name, launch={"command": command})
    assert cells(it)[1] == ("q8_0", pytest.approx(kept))


def test_a_parameter_that_a_command_would_not_hear_of_is_refused() -> None:
    launch = {"command": "llama-server --port {port} -ctk {kv} -ctv {kv}"}
    kv = {"params": {"q8_0": {"type_v": "f16"}}}
    refused(declared(["q8_0"], name="llamacpp", launch=launch, kv=kv), "type_v", "no parameters")


@pytest.mark.parametrize(("dtype", "budget"), [(None, 0.5), ("bfloat16", 0.5), ("float32", 0.25)])
def test_fp8_keeps_what_the_control_has_room_for(dtype: str | None, budget: float) -> None:
    it = declared(["fp8"], name="vllm", dtype=dtype)
    assert cells(it) == [("none", 1), ("fp8", budget)]


def test_an_evicting_server_per_budget_is_a_ladder() -> None:
    endpoints = {"none": URL, "mine@0.50": MINE, "mine@0.2": f"{MINE}/other"}
    it = declared(["mine"], name="openai", endpoints=endpoints)
    assert cells(it) == [("none", 1), ("mine", 0.5), ("mine", 0.2)]
    engine, kv = it.experiment.engine, it.experiment.kv
    assert list(arms.arms(engine, kv)) == ["none", "mine@0.5", "mine@0.2"]


def test_an_endpoint_may_say_its_budget() -> None:
    endpoints = {"none": URL, "mine": {"base_url": MINE, "budget": 0.3}}
    assert cells(declared(["mine"], name="openai", endpoints=endpoints))[1] == ("mine", 0.3)


@pytest.mark.parametrize(
    ("policies", "engine", "says"),
    [
        (["snapkv"], {"name": "llamacpp"}, ["kv.policies.0", "no policy 'snapkv'", "none, q8_0"]),
        (["q8_0"], {"name": "local"}, ["unknown policy 'q8_0'", "snapkv"]),
        (["fp8"], {"name": "llamacpp"}, ["no policy 'fp8'", "q4_0"]),
        (["q8_0"], {"name": "openai"}, ["cannot start", "launch: {command"]),
        (["q8_0"], {"name": "ollama", "base_url": URL}, ["no server is named for q8_0"]),
        (["q8_0"], {"name": "openai", "endpoints": {"q8_0": URL}}, ["named for none", "none: URL"]),
        (
            ["mine"],
            {"name": "openai", "endpoints": {"none": URL, "mine@0.5": URL}},
            ["no server is named for mine@0.2", "mine@0.2: URL"],
        ),
        (["mine"], {"name": "openai", "endpoints": {"none": URL, "mine": URL}}, ["budget of"]),
    ],
)
def test_what_no_server_has_is_refused(policies: Any, engine: Any, says: list[str]) -> None:
    refused(declared(policies, **engine), *says)


@pytest.mark.parametrize(
    "address",
    [
        URL,
        "http://localhost:1/v1/",
        "http://[::1]:1/v1",
        [MINE, URL],
        {"base_url": MINE, "also": [URL]},
    ],
)
@pytest.mark.parametrize("policy", ["mine", "q8_0"])
def test_an_arm_at_the_controls_own_address_is_refused_unless_asked_for(
    policy: str, address: Any
) -> None:
    """Nothing but its address tells it from the control: it is a placebo, or an A/A arm."""
    arm = address if isinstance(address, dict) else {"base_url": address}
    arm = {"budget": 0.5, **arm}
    engine = {"name": "llamacpp", "endpoints": {"none": [URL, f"{MINE}/x"], policy: arm}}
    says = [f"{policy} would be sent the control's requests", "aa: true"]
    refused(declared([policy], **engine), *says)
    engine["endpoints"][policy] = {**arm, "aa": True}  # type: ignore[index]
    assert len(cells(declared([policy], **engine))) == 2


def test_a_route_of_its_own_at_the_same_server_is_another_address() -> None:
    endpoints = {"none": URL, "mine@0.5": "http://127.0.0.1:1/small/v1"}
    it = declared(["mine"], name="openai", endpoints=endpoints, kv={"budgets": [0.5]})
    assert len(cells(it)) == 1


def test_a_command_that_starts_the_controls_server_for_every_arm_is_refused() -> None:
    launch = {"command": "llama-server --port {port} -m {model}"}
    it = declared(["q8_0"], name="llamacpp", launch=launch)
    refused(it, "starts the control's server for q8_0 too", "{kv}")
    assert cells(declared(["none"], name="llamacpp", launch=launch)) == [("none", 1)]


@pytest.mark.parametrize(
    ("params", "says"),
    [({"k": 1}, ["parameter 'k'", "type_v"]), ({"type_v": 1}, ["type_v is 1", "f16, q8_0"])],
)
def test_parameters_that_no_server_takes_are_refused(params: Any, says: list[str]) -> None:
    refused(declared(["q8_0"], kv={"params": {"q8_0": params}}, name="llamacpp"), *says)


def test_a_server_that_is_not_told_the_question_is_not_asked_without_it() -> None:
    with pytest.raises(ExperimentError, match=r"kv\.question_aware"):
        plan.check(declared(["q8_0"], name="llamacpp", kv={"question_aware": False}))


@pytest.mark.parametrize(
    "engine",
    [
        {"headers": {"Authorization": "Bearer abc"}},
        {"headers": {"X-Api-Key": "abc"}},
        {"headers": {"X-Other": "sk-abcdef"}},
        {"extra_body": {"api_key": "abc"}},
        {"base_url": "http://me:abc@host/v1"},
        {"launch": {"command": "serve --port {port} --api-key abc"}},
    ],
)
def test_a_key_in_a_file_is_refused_and_not_repeated(engine: dict[str, Any]) -> None:
    with pytest.raises(ExperimentError, match="KVBENCH_API_KEY") as caught:
        declared(["none"], name="openai", **engine)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "key", "valid"),
    [
        ({"extra_body": {"temperature": 1.5}}, "temperature", "sampling.temperature in its"),
        ({"extra_body": {"top_p": 0.5}}, "top_p", "sampling.top_p"),
        ({"extra_body": {"seed": 0}}, "seed", "sampling.seed"),
        ({"extra_body": {"model": "n"}}, "model", "engine.model"),
        ({"extra_body": {"stream": False}}, "stream", "engine.stream"),
        ({"extra_body": {"messages": []}}, "messages", "tasks"),
        ({"extra_body": {"max_tokens": 8}}, "max_tokens", "sampling.max_tokens"),
        ({"extra_body": {"max_tokens": None}}, "max_tokens", "{max_tokens: null, max_"),
        ({"extra_body": {"max_completion_tokens": 8}}, "max_tokens", "{max_tokens: null, max_"),
        (
            {"extra_body": {"max_tokens": None, "n_predict": 8, "max_new_tokens": 8}},
            "max_tokens",
            "{max_tokens: null, max_",
        ),
        (
            {"extra_body": {"max_tokens": None, "max_completion_tokens": 9}},
            "max_completion_tokens",
            "sampling.max_tokens: 9",
        ),
    ],
)
def test_a_field_that_would_say_otherwise_than_plan_and_report_is_refused(
    engine: dict[str, Any], key: str, valid: str
) -> None:
    it = declared(["none"], name="openai", base_url=URL, length=8, **engine)
    refused(it, f"engine.extra_body.{key}: ", f"valid: {valid}")


def test_fields_that_say_the_same_or_nothing_are_sent() -> None:
    fields = {"max_tokens": None, "max_completion_tokens": 8, "top_k": 1, "seed": None, "stop": "x"}
    it = declared(["none"], name="openai", base_url=URL, extra_body=fields, length=8)
    assert cells(it) == [("none", 1)]


@pytest.mark.parametrize(
    "engine",
    [{"extra_body": {"top_k": 1}}, {"stream": True}, {"api": "chat"}, {"declared": {"a": "b"}}],
)
def test_what_is_not_sent_to_the_embedded_server_is_refused(engine: dict[str, Any]) -> None:
    refused(declared(["knorm"], name="local", **engine), f"engine.{next(iter(engine))}: ", "away")


def test_fields_that_only_sound_like_keys_are_taken() -> None:
    it = declared(["none"], name="openai", extra_body={"max_tokens": None, "top_k": 1})
    assert it.experiment.engine.extra_body == {"max_tokens": None, "top_k": 1}


_words = st.text("abc_", min_size=1, max_size=4)


@given(st.dictionaries(_words, st.dictionaries(_words, _words), min_size=1))
def test_every_server_finds_its_own_facts(by_server: dict[str, dict[str, str]]) -> None:
    merged = fingerprint.merge(by_server)
    assert {name: fingerprint.of_server(merged, name) for name in by_server} == by_server


@pytest.mark.parametrize("engine", ["local", "llamacpp"])
def test_only_the_embedded_server_shares_a_prefill(engine: str) -> None:
    policies = ["snapkv"] if engine == "local" else ["q8_0", "q4_0"]
    it = declared(policies, name=engine).experiment
    (cost,) = plan.costs(it, plan.cells(it), {})
    arms_of_an_example = cost.requests // it.bins.per_bins[0]  # that of `sensitivity` included
    prefills = 1 if engine == "local" else arms_of_an_example
    assert cost.prefill_tokens * arms_of_an_example == cost.prompt_tokens * prefills


def test_what_one_server_for_all_arms_has_no_use_for_is_refused() -> None:
    endpoints = {"none": URL, "knorm@0.5": URL}
    for key in ({"endpoints": endpoints}, {"launch": {"command": "serve {port}"}}):
        refused(declared(["knorm"], name="local", **key), "engine.endpoints", "base_url")
    assert cells(declared(["knorm"], name="local", dtype="float16"))
    assert cells(declared(["q8_0"], name="llamacpp", dtype="float16"))


@pytest.mark.parametrize(
    "engine", [{"name": "openai", "base_url": URL}, {"name": "local", "base_url": URL}]
)
def test_slots_that_no_server_is_started_with_are_refused(engine: dict[str, Any]) -> None:
    refused(declared(["none"], slots="8x4096", **engine), "engine.slots: ", "leave it away")
    assert cells(declared(["none"], **engine)) == [("none", 1)]


@pytest.mark.parametrize(
    "engine",
    [
        {"name": "vllm", "launch": {"command": "serve {model} --kv-cache-dtype {kv}"}},
        {"name": "vllm", "base_url": URL, "endpoints": {"nvfp4": MINE}},
        {"name": "sglang", "base_url": URL, "endpoints": {"nvfp4": MINE}},
        {"name": "openai", "base_url": URL, "endpoints": {"nvfp4": MINE}},
    ],
)
def test_a_type_that_we_do_not_know_is_tried_at_the_bits_that_are_given(
    engine: dict[str, Any],
) -> None:
    it = declared(["nvfp4"], kv={"params": {"nvfp4": {"bits": 4.5}}}, **engine)
    assert cells(it) == [("none", 1), ("nvfp4", 4.5 / 16)]
    kv = it.experiment.served_kv
    assert arms.kv_types(it.experiment.engine, "nvfp4") == ("nvfp4", "nvfp4")
    assert arms.identity_params(it.experiment.engine, kv, "nvfp4") == {"bits": 4.5}


@given(bits=st.floats(1, 16))
def test_bits_are_held_against_those_of_the_full_cache(bits: float) -> None:
    engine = {"name": "vllm", "dtype": "float32", "base_url": URL, "endpoints": {"t": MINE}}
    it = declared(["t"], kv={"params": {"t": {"bits": bits}}}, **engine)
    [_, (_, budget)] = cells(it)
    assert budget == pytest.approx(bits / 32)


@pytest.mark.parametrize("bits", [0, -1, "4", True, 1000, [4]])
def test_bits_that_are_none_are_refused(bits: object) -> None:
    it = declared(
        ["nvfp4"],
        kv={"params": {"nvfp4": {"bits": bits}}},
        name="vllm",
        base_url=URL,
        endpoints={"nvfp4": MINE},
    )
    refused(it, "policy nvfp4: bits is ", "as in 4.5")


def test_bits_of_a_type_that_we_know_are_refused_and_an_unknown_type_says_the_way_out() -> None:
    known = declared(["q8_0"], name="llamacpp", kv={"params": {"q8_0": {"bits": 4}}})
    refused(known, "unknown parameter 'bits'", "valid: type_v")
    unknown = declared(["nvfp4"], name="vllm", launch={"command": "serve {kv}"})
    refused(unknown, "has no policy 'nvfp4'", "kv.params: {nvfp4: {bits: 4.5}}")
