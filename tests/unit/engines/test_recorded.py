"""Our client against what a real vLLM answered: `make engines` records it anew."""

from __future__ import annotations

import pytest

from pytest_kvbench.engines.base import proof_of
from pytest_kvbench.records import Arm, Sampling, Telemetry
from tests.support.recorded import ARM, NEW, Heard, Replay, hear, recorded


@pytest.fixture(scope="module")
def heard() -> dict[str, Heard]:
    """What our code makes of both servers."""
    found: dict[str, Heard] = {}
    for policy, kept in recorded().items():
        with Replay(kept) as server:
            found[policy] = hear(server.base_url, found.get("none"))
    return found


def test_who_the_servers_are(heard: dict[str, Heard]) -> None:
    assert {one.facts["cache_dtype"] for one in heard.values()} == {"auto"}
    assert len({one.facts["kv_bytes_per_token"] for one in heard.values()}) == len(heard)
    assert {one.facts["server"] for one in heard.values()} == {"vllm 0.32.0"}
    assert {one.facts["weights"] for one in heard.values()} == {"smollm2-135m"}


def test_half_the_bytes_a_token_prove_half_a_cache(heard: dict[str, Heard]) -> None:
    full, half = heard["none"].size, heard[ARM].size
    assert full == pytest.approx(2 * 30 * 3 * 64 * 4, rel=0.001), "layers, heads, values, bytes"
    assert full is not None
    assert half is not None
    arm = Arm("e", "m", "f", ARM, 0.5, Sampling(), "t")
    assert proof_of(arm, Telemetry(1.0, prompt_tokens=40, achieved=half / full)) == "proven"


@pytest.mark.parametrize("policy", ["none", ARM])
def test_replies_are_read(heard: dict[str, Heard], policy: str) -> None:
    one = heard[policy]
    assert one.chat.text == one.streamed.text != ""
    assert one.chat.telemetry.prompt_tokens == one.streamed.telemetry.prompt_tokens
    assert 0 < (one.plain.telemetry.prompt_tokens or 0) < (one.chat.telemetry.prompt_tokens or 0)
    assert one.plain.text


def test_replies_are_compared(heard: dict[str, Heard]) -> None:
    (_, again), (answer, arm) = heard["none"].forced, heard[ARM].forced
    assert again.n == arm.n == NEW
    assert answer.text == heard["none"].chat.text, "the full cache's reply is put to both"
    assert any(low > 0 for low in arm.positions.kld_low)
    assert all(0 < low <= high <= 1 for low, high in zip(*_overlap(arm), strict=True))
    (_, free) = heard[ARM].free
    assert 0 <= free.prefix <= free.n <= NEW


def _overlap(arm) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return arm.positions.overlap_low, arm.positions.overlap_high


def test_what_was_never_asked_of_the_real_one_is_refused() -> None:
    with Replay(recorded()["none"]) as server, pytest.raises(Exception, match="404"):
        hear(server.base_url.replace("/v1", "/v2"))
