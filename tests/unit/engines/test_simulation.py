"""The simulation behind docs/scaling.md keeps to what can be reckoned by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import tenacity

from pytest_kvbench.engines import retry
from tests.benchmarks.simulation import Controller, Endpoints, Network, World, pause_s, simulate

CALM: dict[str, Any] = {"stragglers": 0.0, "failing": 0.0, "lives_s": math.inf}
STORMY: dict[str, Any] = {"failing": 0.1, "lives_s": 60.0, "down_s": 20.0}
IDLE = Controller(answer_s=1e-9, kilobyte_s=0.0)


def world(count: int, requests: int = 1000, **endpoints: Any) -> World:
    return World(requests, endpoints=Endpoints(count, **endpoints))


def test_the_same_seed_gives_the_same() -> None:
    stormy = world(5, **STORMY)
    first, again, other = (simulate(w) for w in (stormy, stormy, replace(stormy, seed=1)))
    assert (first.seconds, first.waits) == (again.seconds, again.waits)
    assert first.seconds != other.seconds


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_request_ends_once_whatever_dies(count: int) -> None:
    result = simulate(world(count, **STORMY))
    assert result.answered + result.failed == len(result.waits) == 1000
    assert result.deaths
    assert result.tries > 1000
    assert result.stops >= 1 if count == 1 else result.stops < result.deaths


def test_what_always_fails_is_a_failure_after_all_tries() -> None:
    result = simulate(world(2, 100, **{**CALM, "failing": 1.0}))
    assert (result.answered, result.failed, result.tries) == (0, 100, 400)


def test_a_dead_endpoint_costs_time_and_no_answer() -> None:
    calm, mortal = (
        simulate(world(4, **{**CALM, "lives_s": lives_s, "down_s": 30.0}))
        for lives_s in (math.inf, 120.0)
    )
    assert mortal.deaths
    assert mortal.answered == 1000
    assert calm.seconds < mortal.seconds < 2 * calm.seconds


def test_throughput_is_slots_over_service_time() -> None:
    alone = replace(world(1, 4000, **CALM), controller=IDLE, network=Network(math.inf, 0.0))
    result = simulate(alone)
    assert result.per_s == pytest.approx(8 / 2.0, rel=0.03)
    assert result.per_s == pytest.approx(alone.ceilings["endpoints"], rel=0.03)
    assert result.limit == "endpoints"
    assert result.used["endpoints"] > 0.98


def test_stragglers_and_failing_tries_take_their_share() -> None:
    slow = {**CALM, "stragglers": 0.05, "failing": 0.1}
    result = simulate(replace(world(4, 4000, **slow), controller=IDLE))
    # 1.45 times as long, and 1/0.9 tries; the pauses hold a place, but no slot.
    assert 0.75 < result.per_s / (4 * 8 / 2.0 / 1.45 * 0.9) < 1.0


def test_more_endpoints_are_never_slower() -> None:
    seconds = [simulate(world(count)).seconds for count in (1, 2, 5, 10)]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        ("controller", {"controller": Controller(answer_s=0.01)}),
        ("network", {"network": Network(bytes_s=3.3e6)}),
        ("requests in flight", {"controller": Controller(places=20)}),
    ],
)
def test_many_endpoints_come_to_a_ceiling(limit: str, parts: dict[str, Any]) -> None:
    many = replace(world(100, 3000, slots=4, mean_s=1.0, **CALM), **parts)
    result = simulate(many)
    assert result.limit == limit
    ceiling = many.ceilings.get(limit, 20 / 1.0)
    assert ceiling * 0.9 < result.per_s <= ceiling * 1.02


BACKOFF = retry._BACKOFF  # before a test has none


def test_pauses_are_those_of_the_client() -> None:
    for attempt in range(1, 10):
        state = tenacity.RetryCallState(BACKOFF, None, (), {})
        state.attempt_number = attempt
        real = [BACKOFF(state) for _ in range(200)]
        ours = [pause_s(attempt, random.Random(n)) for n in range(200)]
        assert min(real) == pytest.approx(min(ours), abs=0.05)
        assert max(real) == pytest.approx(max(ours), abs=0.05)
