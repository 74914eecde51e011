"""A sweep of 8 budgets against 8 separate kvpress runs, side by side in one process.

Run alone: `pytest tests/benchmarks/test_sweep.py --benchmark-only -n 0`. Both sides use the same
threads, weights, prompts and greedy decoding; rounds alternate, so that a busy moment of the
machine hits both, and the fastest round of each counts.
"""

from __future__ import annotations

import bisect
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.model.conftest import MODEL, Direct, prompt_parts
from tests.model.conftest import direct as direct

pytestmark = pytest.mark.model

BUDGETS = (0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
NEW_TOKENS = 16
ROUNDS = 3
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
FASTER_THAN = {500: 2.5, 1000: 2.5, 2000: 4.5, 4000: 4.5}
"""Prompt tokens to the least ratio of wall times."""


@pytest.fixture(scope="module")
def engine() -> Any:
    from pytest_kvbench.server import model, weights
    from pytest_kvbench.server.engine import Engine
    from pytest_kvbench.server.reuse import PrefillCache

    folder = weights.materialise(weights.resolve(MODEL))
    loaded = model.load(folder, "float32", "cpu", THREADS)
    return Engine(loaded, PrefillCache(0))  # every round prefills


@pytest.fixture(scope="module", autouse=True)
def stock_attention(direct: Direct) -> Iterator[None]:
    yield
    assert direct.model.config._attn_implementation == "sdpa"


def sweep(engine: Any, ids: list[int]) -> tuple[list[str], Any]:
    from pytest_kvbench.policies.table import get_policy
    from pytest_kvbench.server.drawing import Sampling
    from pytest_kvbench.server.engine import ArmSpec, Done, Job, Piece

    policy = get_policy("snapkv")
    arms = [ArmSpec(policy, policy.with_defaults({}), budget) for budget in BUDGETS]
    events: list[Any] = []
    rows = engine.start(
        Job(
            ids,
            arms,
            NEW_TOKENS,
            Sampling(0.0, 1.0, 0),
            [],
            events.append,
            created=time.perf_counter(),
        )
    )
    while rows:
        rows = engine.step(rows)
    pieces = [event for event in events if isinstance(event, Piece)]
    timings = next(event.timings for event in events if isinstance(event, Done))
    texts = ["".join(p.text for p in pieces if p.index == arm) for arm in range(len(arms))]
    return texts, timings


def separate_runs(direct: Direct, ids: list[int]) -> list[str]:
    import kvpress

    return [
        direct.answer(kvpress.SnapKVPress(compression_ratio=1 - budget), ids, [], NEW_TOKENS)[0]
        for budget in BUDGETS
    ]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


@pytest.mark.parametrize("tokens", FASTER_THAN)
def test_a_sweep_is_faster_than_its_runs(
    benchmark: Any, engine: Any, direct: Direct, tokens: int
) -> None:
    ids = prompt_of(direct, tokens)
    separate: list[float] = []

    def run_separately() -> None:
        seconds, texts = timed(lambda: separate_runs(direct, ids))
        separate.append(seconds)
        benchmark.extra_info["separate_texts"] = texts

    texts, timings = benchmark.pedantic(
        lambda: sweep(engine, ids), setup=run_separately, rounds=ROUNDS, warmup_rounds=1
    )
    fastest = benchmark.stats.stats.min
    ratio = min(separate) / fastest
    parts = {name: round(value, 3) for name, value in vars(timings).items() if name != "queue_s"}
    benchmark.extra_info.update(
        tokens=len(ids),
        separate_s=round(min(separate), 3),
        separate_median_s=round(statistics.median(separate), 3),
        sweep_s=round(fastest, 3),
        ratio=round(ratio, 2),
        **parts,
    )
    print(benchmark.extra_info)
    assert texts == benchmark.extra_info["separate_texts"]
    assert ratio >= FASTER_THAN[tokens]


def prompt_of(direct: Direct, tokens: int) -> list[int]:
    """A needle prompt of that many tokens, or one or two fewer."""
    longest = bisect.bisect_right(
        range(tokens * 8),
        tokens,
        lo=100,
        key=lambda chars: len(direct.ids(*prompt_parts(0, chars))),
    )
    return direct.ids(*prompt_parts(0, longest - 1))
