"""One reply, asked about at every arm's server as that kind can be asked."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from pytest_kvbench.divergence import measures
from pytest_kvbench.divergence.records import UnsoundError
from pytest_kvbench.engines import reference
from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.kinds import KINDS
from tests.support.naming_server import END, NamingServer, logs, tokens_of

QUESTION = "what is it that a cache of fewer bits forgets"
FIELDS = {
    "model": "m",
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 24,
    "temperature": 0,
}
BODY = ("/chat/completions", FIELDS)


def ask(server: NamingServer, full: Any = None) -> Any:
    """What the full cache's server gives, or an arm's beside it."""

    async def asked() -> Any:
        http = Http(server.base_url, concurrency=2, timeout_s=30, retries=0)
        kind = KINDS[server.kind]
        try:
            if full is None:
                return await reference.full_cache(http, kind, "control", BODY)
            treated = server.noise > 0
            return await reference.arm(http, kind, "arm", BODY, full, treated=treated)
        finally:
            await http.aclose()

    return asyncio.run(asked())


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_an_arm_is_asked_about_the_full_caches_reply(kind: str) -> None:
    with NamingServer(kind=kind) as full, NamingServer(kind=kind, noise=0.8) as arm:
        control = ask(full)
        again, floor = ask(full, control)
        answer, found = ask(arm, control)
    reply = control[1].positions.reference
    assert reply[-1] == END
    assert (answer.key, answer.text) == ("arm", control[0].text)
    assert answer.telemetry.prompt_tokens == len(tokens_of(QUESTION)) + 2
    assert answer.telemetry.latency_s > 0
    assert again.finish_reason == answer.finish_reason == "stop"
    assert floor.prefix == floor.n == len(reply)
    assert floor.bounds("kld").low == 0
    prompt = tokens_of(f"<user> {QUESTION} <assistant>")
    contexts = [[*prompt, *reply[:at]] for at in range(len(reply))]
    pairs = [(logs(ids, 0.0), logs(ids, 0.8)) for ids in contexts]
    exact = np.mean([measures.overlap(p, q) for p, q in pairs])
    assert found.bounds("overlap").low <= exact <= found.bounds("overlap").high < 1
    assert found.bounds("same_top").low == np.mean([measures.same_top(p, q) for p, q in pairs])
    nll = [-q[token] for token, (_, q) in zip(reply, pairs, strict=True)]
    assert found.positions.nll == pytest.approx(nll, abs=1e-5)


def test_vllm_is_asked_once_and_llamacpp_position_by_position() -> None:
    with NamingServer(kind="vllm") as vllm, NamingServer(kind="llamacpp") as llamacpp:
        controls = ask(vllm), ask(llamacpp)
        vllm.paths.clear()
        llamacpp.paths.clear()
        llamacpp.bodies.clear()
        ask(vllm, controls[0])
        ask(llamacpp, controls[1])
    assert vllm.paths == ["/tokenize", "/v1/completions"]
    n = controls[1][1].n
    assert llamacpp.paths == ["/apply-template", "/tokenize", *["/completion"] * n]
    assert [body["cache_prompt"] for body in llamacpp.bodies[2:]] == [False, *[True] * (n - 1)]


def test_a_prompt_that_is_tokenized_otherwise_is_refused() -> None:
    with NamingServer(special=1) as server, pytest.raises(UnsoundError, match="one tokenizer"):
        ask(server)


def test_a_pass_that_does_not_read_the_cache_measures_nothing() -> None:
    with NamingServer() as full, NamingServer(noise=0.8, reads_cache=False) as arm:
        control = ask(full)
        with pytest.raises(UnsoundError, match="does not read this cache"):
            ask(arm, control)


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "openai"])
def test_free_replies_are_compared_up_to_where_they_part(kind: str) -> None:
    async def asked(server: NamingServer, full: Any) -> Any:
        http = Http(server.base_url, concurrency=2, timeout_s=30, retries=0)
        body = ("/chat/completions", {**FIELDS, "stream": True})
        try:
            return await reference.free(http, KINDS[kind], "key", body, full)
        finally:
            await http.aclose()

    with NamingServer(kind=kind) as full, NamingServer(kind=kind, noise=0.8) as arm:
        answer, record = asyncio.run(asked(full, None))
        _, again = asyncio.run(asked(full, record))
        moved, found = asyncio.run(asked(arm, record))
    assert again.prefix == again.n == record.n
    assert found.prefix < found.n
    words = answer.text.split(), moved.text.split()
    assert found.prefix == measures.prefix(*words)
    assert found.positions.same_top[found.prefix] is False
    assert "stream" not in full.bodies[0]
