"""What the server answers is what kvpress answers, and a sweep is its single requests."""

from __future__ import annotations

from typing import Any

import kvpress
import pytest

from pytest_kvbench.policies.table import POLICIES, catalogue
from tests.model.conftest import Direct, Server, parts, prompt_parts

pytestmark = pytest.mark.model

PRESSES = {
    "snapkv": kvpress.SnapKVPress,
    "knorm": kvpress.KnormPress,
    "streaming_llm": kvpress.StreamingLLMPress,
    "expected_attention": kvpress.ExpectedAttentionPress,
}
BUDGETS = (0.8, 0.5, 0.3, 0.15)
NEW_TOKENS = 8


def texts(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


def some(*quick: int, of: int) -> list[Any]:
    """All places, those that CI has no time for marked slow."""
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in range(of)]


@pytest.mark.parametrize("index", some(0, 3, 5, 10, of=20))
def test_answers_equal_those_of_kvpress_used_directly(
    server: Server, direct: Direct, index: int
) -> None:
    budget = BUDGETS[index % len(BUDGETS)]
    arms = [{"policy": name, "budget": budget} for name in PRESSES]
    reply = server.chat(parts(index), kv=arms, max_tokens=NEW_TOKENS).json()
    ids = direct.ids(*prompt_parts(index))
    expected = [
        direct.answer(press(compression_ratio=1 - budget), ids, [], NEW_TOKENS)
        for press in PRESSES.values()
    ]
    assert reply["usage"]["prompt_tokens"] == len(ids)
    assert texts(reply) == [text for text, _ in expected]
    assert [c["kv"]["kept_bytes"] for c in reply["choices"]] == [kept for _, kept in expected]


@pytest.mark.parametrize("index", some(0, 3, of=4))
def test_a_sweep_equals_its_single_requests(server: Server, index: int) -> None:
    arms = [
        {"policy": "none"},
        *({"policy": "snapkv", "budget": budget} for budget in (0.9, 0.5, 0.2)),
        *({"policy": "streaming_llm", "budget": budget} for budget in (0.6, 0.3)),
        {"policy": "random", "budget": 0.7, "params": {"seed": index}},
        {"policy": "tova", "budget": 0.4, "question_aware": False},
    ]
    sweep = server.chat(parts(index), kv=arms, max_tokens=NEW_TOKENS).json()
    singles = [server.chat(parts(index), kv=arm, max_tokens=NEW_TOKENS).json() for arm in arms]
    assert texts(sweep) == [text for single in singles for text in texts(single)]
    assert [c["kv"] for c in sweep["choices"]] == [s["choices"][0]["kv"] for s in singles]


@pytest.mark.parametrize("press", [None, kvpress.SnapKVPress, kvpress.KnormPress])
def test_a_policy_that_does_not_see_the_question_equals_kvpress(
    server: Server, direct: Direct, press: Any
) -> None:
    name = {None: "none", kvpress.SnapKVPress: "snapkv", kvpress.KnormPress: "knorm"}[press]
    context, question = prompt_parts(3)
    ids = direct.ids(context, question)
    start = direct.tokenizer.decode(ids).index(question)
    ends = direct.tokenizer.backend_tokenizer.encode(direct.tokenizer.decode(ids)).offsets
    split = sum(end <= start for _, end in ends)
    budget = 1.0 if press is None else 0.6
    kept = int(budget * len(ids)) - (len(ids) - split)
    reply = server.chat(
        parts(3),
        kv={"policy": name, "budget": budget, "question_aware": False},
        max_tokens=NEW_TOKENS,
    ).json()
    # Half a token more, so that kvpress's truncation gives exactly `kept`.
    used = press and press(compression_ratio=1 - (kept + 0.5) / split)
    text, kept_bytes = direct.answer(used, ids[:split], ids[split:], NEW_TOKENS)
    assert texts(reply) == [text]
    assert reply["choices"][0]["kv"]["kept_bytes"] == pytest.approx(kept_bytes, rel=0.005)


def test_every_policy_keeps_what_was_asked_for(server: Server) -> None:
    names = [policy["name"] for policy in server.http.get("/v1/kv").json()["policies"]]
    assert names == list(catalogue())
    arms = [
        {"policy": name, "budget": budget, "question_aware": aware}
        for name in POLICIES
        if name != "none"
        for budget in (0.7, 0.25)
        for aware in (True, False)
    ]
    reply = server.chat(parts(0, chars=2400), kv=arms, max_tokens=1).json()
    tokens = reply["usage"]["prompt_tokens"]
    for arm, choice in zip(arms, reply["choices"], strict=True):
        kv = choice["kv"]
        assert kv["achieved"] == pytest.approx(arm["budget"], rel=0.02), kv
        assert kv["achieved"] == kv["kept_bytes"] / kv["full_bytes"]
        assert kv["full_bytes"] == tokens * 30 * 2 * 3 * 64 * 4  # layers, k and v, heads, width
        assert kv["kept_tokens"] == pytest.approx(kv["achieved"] * tokens)
        assert kv["question_aware"] is arm["question_aware"]


def test_pyramidkv_says_where_it_is_snapkv(server: Server) -> None:
    arms = [{"policy": "pyramidkv", "budget": budget} for budget in (0.7, 0.1)]
    reply = server.chat(parts(0, chars=2400), kv=arms, max_tokens=1).json()
    pyramid, fallen = [choice["kv"]["note"] for choice in reply["choices"]]
    assert pyramid == ""
    assert "snapkv on all 30 layers" in fallen


def test_parameters_reach_the_policy(server: Server) -> None:
    arms = [{"policy": "random", "budget": 0.5, "params": {"seed": seed}} for seed in (1, 1, 2)]
    first, same, other = texts(server.chat(parts(5), kv=arms, max_tokens=24).json())
    assert first == same
    assert first != other


def test_sampling_is_seeded_and_top_p_narrows_it(server: Server) -> None:
    def draw(**more: Any) -> list[str]:
        arms = [{"policy": "none"}] * 2
        more = {"temperature": 1.5, "max_tokens": 12, **more}
        return texts(server.chat("Tell me a story.", kv=arms, **more).json())

    assert draw(seed=1) == draw(seed=1)
    assert draw(seed=1) != draw(seed=2)
    assert len(set(draw(seed=1))) == 1  # every arm has the same luck
    greedy = texts(server.chat("Tell me a story.", max_tokens=12).json())
    assert draw(seed=1, top_p=1e-6)[0] == greedy[0]
    assert draw() != draw()  # no seed: a new one each time


def test_stop_strings_end_a_reply_before_them(server: Server) -> None:
    whole = server.chat(parts(3), max_tokens=24).json()["choices"][0]["message"]["content"]
    middle = whole[len(whole) // 3 : len(whole) // 3 + 7]
    choice = server.chat(parts(3), max_tokens=24, stop=["never said", middle]).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(middle)]
    assert choice["finish_reason"] == "stop"


def test_length_and_stop_are_told_apart(server: Server) -> None:
    short = server.chat(parts(3), max_tokens=2).json()
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["choices"][0]["completion_tokens"] == short["usage"]["completion_tokens"] == 2
    assert server.chat("Say hi.", max_tokens=64).json()["choices"][0]["finish_reason"] == "stop"
