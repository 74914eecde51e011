"""Pacing against a clock of its own: no window of a minute holds more than allowed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.engines.pacing import Pace, tokens_of


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes only in sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            # A little later than asked, as on every machine: equal times would never pass.
            self.now = max(self.now, self._scheduled[0]._when) + 1e-6  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@pytest.fixture
def clock() -> Iterator[Clock]:
    loop = Clock()
    yield loop
    loop.close()


def sent_at(loop: Clock, pace: Pace, bodies: list[dict[str, Any]]) -> list[float]:
    times: list[float] = []

    async def one(body: dict[str, Any]) -> None:
        await pace.wait(body)
        times.append(loop.time())

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, bodies))

    loop.run_until_complete(all_of_them())
    return times


def busiest_minute(times: list[float], weights: list[float]) -> float:
    return max(
        sum(w for t, w in zip(times, weights, strict=True) if start <= t < start + 59.999)
        for start in times
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.integers(1, 4))
def test_no_minute_holds_more_requests_than_allowed(rpm: int, share: int) -> None:
    loop = Clock()
    times = sent_at(loop, Pace(rpm, None, share), [{}] * 40)
    loop.close()
    assert len(times) == 40
    assert busiest_minute(times, [1.0] * 40) <= max(1, rpm / share)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.integers(1, 8), st.sampled_from(["rpm", "tpm"]))
def test_processes_that_meet_keep_to_a_limit_together(most: int, count: int, kind: str) -> None:
    """One request, or one of a tenth of a minute's tokens, from each in turn."""
    loop, times = Clock(), list[float]()
    amount = max(1, most // 10)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "pace"
        limits = (most, None) if kind == "rpm" else (None, most)
        paces = [Pace(*limits, meet_at=at) for _ in range(count)]

        async def one(pace: Pace) -> None:
            await pace.wait({"max_tokens": amount})
            times.append(loop.time())

        async def all_of_them() -> None:
            await asyncio.gather(*(one(pace) for pace in paces for _ in range(40 // count)))

        loop.run_until_complete(all_of_them())
    loop.close()
    weight = 1 if kind == "rpm" else amount
    assert busiest_minute(times, [float(weight)] * len(times)) <= most


@pytest.mark.parametrize("tokens", [50, 3_000])
def test_no_minute_holds_more_tokens_than_allowed(clock: Clock, tokens: int) -> None:
    """3,000 tokens are more than may come at once, and half of a minute's."""
    times = sent_at(clock, Pace(None, 6_000), [{"max_tokens": tokens}] * 60)
    assert busiest_minute(times, [float(tokens)] * 60) <= 6_000
    assert max(times) <= 60 * tokens / (6_000 * 0.9) * 60 + 60, "slower than the rate asks for"


def test_without_limits_nothing_waits(clock: Clock) -> None:
    assert max(sent_at(clock, Pace(None, None), [{"max_tokens": 10**9}] * 100)) == 0.0


def test_prompt_and_reply_count() -> None:
    chat = {"messages": [{"role": "user", "content": "a" * 400}], "max_tokens": 16}
    assert tokens_of(chat) == tokens_of({"prompt": "a" * 400, "max_tokens": 16}) == 116
    assert tokens_of({"prompt": list(range(100)), "max_tokens": 16}) == 116


def test_a_message_that_only_calls_tools_has_no_text_to_count() -> None:
    called = {"role": "assistant", "tool_calls": [{"id": "c"}]}
    asked = {"messages": [{"role": "user", "content": "a" * 40}, called], "max_tokens": 5}
    assert tokens_of(asked) == 15
