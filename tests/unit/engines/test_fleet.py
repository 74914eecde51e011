"""Servers one after another: each waiting request served, no more up than allowed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.fleet import Fleet, Up
from pytest_kvbench.errors import EngineError

SIZES = {"none": 64.0, "q8_0": 34.0, "q4_0": 18.0}


class Rack:
    """Counts what is up."""

    def __init__(self) -> None:
        self.up: set[str] = set()
        self.most = 0
        self.order: list[str] = []
        self.broken: set[str] = set()
        self._lock = threading.Lock()

    def bring_up(self, name: str) -> Up:
        with self._lock:
            self.up.add(name)
            self.order.append(name)
            self.most = max(self.most, len(self.up))
        if name in self.broken:
            raise EngineError(f"{name} does not start", "")
        return Up(Http("http://x/v1", concurrency=1, timeout_s=1, retries=0), SIZES[name])

    def take_down(self, name: str) -> None:
        with self._lock:
            self.up.remove(name)


def run(
    rack: Rack, at_once: int, what: Callable[[Fleet], Coroutine[Any, Any, Any]], first: bool = True
) -> Any:
    async def whole() -> Any:
        fleet = Fleet(rack.bring_up, rack.take_down, at_once=at_once, control_first=first)
        try:
            async with asyncio.timeout(20):
                return await what(fleet)
        finally:
            await fleet.aclose()

    return asyncio.run(whole())


async def ask(fleet: Fleet, name: str) -> tuple[str, float | None]:
    async with fleet.use(name) as station:
        await asyncio.sleep(0.001)
        return name, station.size / station.full if station.size and station.full else None


async def ask_all(fleet: Fleet) -> list[tuple[str, float | None]]:
    return await asyncio.gather(*(ask(fleet, n) for n in ["q4_0", "none", "q8_0"] * 5))


def test_one_at_a_time_serves_all_that_wait_before_the_next(capsys: Any) -> None:
    rack = Rack()
    answers = run(rack, 1, ask_all)
    assert rack.most == 1
    assert sorted(rack.order) == ["none", "q4_0", "q8_0"]
    assert rack.order[0] == "none"
    assert set(answers) == {("none", 1.0), ("q8_0", 34 / 64), ("q4_0", 18 / 64)}


def test_two_at_once_are_two() -> None:
    rack = Rack()
    run(rack, 2, ask_all)
    assert (rack.most, sorted(rack.order)) == (2, ["none", "q4_0", "q8_0"])


def test_the_control_is_measured_even_if_nobody_asks_it() -> None:
    rack = Rack()
    assert run(rack, 1, lambda fleet: ask(fleet, "q8_0")) == ("q8_0", 34 / 64)
    assert rack.order == ["none", "q8_0"]


def test_without_measures_nothing_but_what_is_asked_comes_up() -> None:
    rack = Rack()
    assert run(rack, 3, lambda fleet: ask(fleet, "q8_0"), first=False) == ("q8_0", None)
    assert rack.order == ["q8_0"]


def test_a_server_that_was_taken_down_comes_up_again() -> None:
    rack = Rack()

    async def twice(fleet: Fleet) -> None:
        for name in ["q8_0", "q4_0", "q8_0"]:
            await ask(fleet, name)

    run(rack, 1, twice)
    assert rack.order == ["none", "q8_0", "q4_0", "q8_0"]


def test_a_server_that_does_not_start_is_everybodys_error_once() -> None:
    rack = Rack()
    rack.broken = {"none"}

    async def both(fleet: Fleet) -> None:
        for name in ["q8_0", "none"]:
            with pytest.raises(EngineError, match="none does not start"):
                await ask(fleet, name)

    run(rack, 3, both)
    assert rack.order == ["none"]


def test_a_server_that_does_not_start_leaves_the_others_alone_and_is_not_started_again() -> None:
    rack = Rack()
    rack.broken = {"q8_0"}

    async def three(fleet: Fleet) -> list[Any]:
        names = ["q8_0", "q4_0", "q8_0", "none"]
        together = await asyncio.gather(*(ask(fleet, n) for n in names), return_exceptions=True)
        return [*together, *await asyncio.gather(ask(fleet, "q8_0"), return_exceptions=True)]

    *found, last = run(rack, 1, three)
    assert [found[1], found[3]] == [("q4_0", 18 / 64), ("none", 1.0)]
    assert all("q8_0 does not start" in str(one) for one in (found[0], found[2], last))
    assert (rack.most, rack.order.count("q8_0")) == (1, 1)
