"""Asking eight budgets about a reply that is known, against having each generate its own.

Run alone: `pytest tests/benchmarks/test_force.py --benchmark-only -n 0`. Both sides use the same
engine, threads, prompt and arms; rounds alternate, and the fastest round of each counts. The full
cache is asked too, for the others are compared with it, though its reply is known: where all
generate it need not.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.benchmarks.test_sweep import prompt_of
from tests.model.conftest import MODEL, Direct
from tests.model.conftest import direct as direct

pytestmark = pytest.mark.model

BUDGETS = (0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
TOKENS, NEW_TOKENS = 2000, 64
ROUNDS = 3
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
PASS, WHOLE = 0.25, 0.65
"""The most of generating that asking may take: after compression, and from prompt to end."""


@pytest.fixture(scope="module")
def engine() -> Any:
    from pytest_kvbench.server import model, weights
    from pytest_kvbench.server.engine import Engine
    from pytest_kvbench.server.reuse import PrefillCache

    loaded = model.load(weights.materialise(weights.resolve(MODEL)), "float32", "cpu", THREADS)
    endless = replace(loaded, end_tokens=frozenset())  # every reply has its 64 tokens
    return Engine(endless, PrefillCache(0))


def run(engine: Any, ids: list[int], reference: list[int] | None) -> tuple[Any, float]:
    """Where the time of one job went, and how long it took; it generates without a reference."""
    from pytest_kvbench.policies.table import get_policy
    from pytest_kvbench.server.drawing import Sampling
    from pytest_kvbench.server.engine import ArmSpec, Done, Job
    from pytest_kvbench.server.jobs import Force

    policy = get_policy("snapkv")
    arms = [ArmSpec(policy, policy.with_defaults({}), budget) for budget in BUDGETS]
    full = [ArmSpec(get_policy("none"), {}, 1.0)] if reference else []
    force = Force(reference) if reference else None
    events: list[Any] = []
    started = time.perf_counter()
    sampling = Sampling(0.0, 1.0, 0)
    runs = engine.start(
        Job(ids, [*full, *arms], NEW_TOKENS, sampling, [], events.append, force, created=started)
    )
    while runs:
        runs = engine.step(runs)
    (timings,) = [event.timings for event in events if isinstance(event, Done)]
    return timings, time.perf_counter() - started


def test_asking_about_a_known_reply_costs_a_part_of_generating(
    benchmark: Any, engine: Any, direct: Direct
) -> None:
    ids = prompt_of(direct, TOKENS)
    reference = direct.tokenizer.encode(" The text is about Python, and so on." * 20)[:NEW_TOKENS]
    generated: list[tuple[Any, float]] = []
    asked: list[tuple[Any, float]] = []
    benchmark.pedantic(
        lambda: asked.append(run(engine, ids, reference)),
        setup=lambda: generated.append(run(engine, ids, None)),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    decode_s = min(timings.decode_s for timings, _ in generated)
    force_s = min(timings.force_s for timings, _ in asked)
    walls = [min(wall for _, wall in side) for side in (generated, asked)]
    benchmark.extra_info.update(
        tokens=len(ids),
        decode_s=round(decode_s, 3),
        force_s=round(force_s, 3),
        generating_s=round(walls[0], 3),
        asking_s=round(walls[1], 3),
        after_compression=round(force_s / decode_s, 3),
        whole=round(walls[1] / walls[0], 3),
    )
    print(benchmark.extra_info)
    assert force_s / decode_s <= PASS
    assert walls[1] / walls[0] <= WHOLE
