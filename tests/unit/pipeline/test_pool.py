"""The pool: each missing request once, stored as it lands; controls shared; failures kept apart."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_kvbench.engines.base import Capabilities, proof_of
from pytest_kvbench.errors import EngineError
from pytest_kvbench.pipeline.pool import Pool, Tally, Work, first_cause
from pytest_kvbench.records import (
    Answer,
    Arm,
    Example,
    Failure,
    Prompt,
    Request,
    Sampling,
    Telemetry,
)
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.store import DATABASE, Store

EXAMPLES = [Example(f"e{n}", "q", f"c{n}", ("gold",)) for n in range(4)]
CONTROL = Arm("local", "m", "f", "none", 1.0, Sampling(), "t")
TREATED = dataclasses.replace(CONTROL, policy="knorm", budget=0.2)


class FakeEngine:
    """Answers everything with `gold`, as told."""

    def __init__(self, arms_per_request: int = 8, places: int = 4) -> None:
        self.capabilities = Capabilities(arms_per_request, places)
        self.batches: list[list[Request]] = []
        self.fail: set[str] = set()
        self.gone_after: int | None = None
        self.closed = False

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        if self.gone_after is not None and len(self.batches) >= self.gone_after:
            raise EngineError("the server is gone", "")
        self.batches.append(list(requests))
        return [
            Failure(r.key, "TIMEOUT", "slow")
            if r.example_id in self.fail
            else Answer(r.key, "gold", "stop", Telemetry(0.1, achieved=r.arm.budget))
            for r in requests
        ]

    async def aclose(self) -> None:
        self.closed = True


def requests(*arms: Arm, aa: bool = False) -> tuple[Request, ...]:
    return tuple(
        Request(arm, "task", 0, example.example_id, 0, Prompt(example.context, "t", 8), aa=aa)
        for example in EXAMPLES
        for arm in arms
    )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "g" / DATABASE
    with Store(path) as store:
        entries = tuple(ManifestEntry(e, 0, 5, "sha", 8) for e in EXAMPLES)
        store.save_manifest(TaskManifest("task", "any_of", "v", "t", (Bin(0, 0, 9),), entries), {})
    return path


def run(
    database: Path, engine: FakeEngine, *works: Work, controls: Path | None = None
) -> list[Tally]:
    shared = SharedControls(controls or database.parent / "shared" / "controls")
    pool = Pool(database, lambda: engine, shared)
    try:
        return [future.result(10) for future in [pool.submit(work) for work in works]]
    finally:
        pool.close()


def test_arms_of_an_example_share_a_request(database: Path) -> None:
    engine = FakeEngine()
    (tally,) = run(database, engine, Work("b", requests(CONTROL, TREATED)))
    assert tally == Tally(stored=0, reused=0, answered=8, failed=0)
    assert [len(batch) for batch in engine.batches] == [2] * 4
    assert all(len({r.example_id for r in batch}) == 1 for batch in engine.batches)
    assert engine.closed


def test_an_engine_without_sweeps_is_asked_one_by_one(database: Path) -> None:
    engine = FakeEngine(arms_per_request=1)
    run(database, engine, Work("b", requests(CONTROL, TREATED)))
    assert [len(batch) for batch in engine.batches] == [1] * 8


def test_stored_answers_are_not_asked_again_and_no_engine_starts(database: Path) -> None:
    work = Work("b", requests(CONTROL, TREATED))
    run(database, FakeEngine(), work)

    def refuse() -> FakeEngine:
        raise AssertionError("nothing is missing")

    pool = Pool(database, refuse, SharedControls(database.parent / "x" / "c"))
    assert pool.submit(work).result(10) == Tally(stored=8)
    pool.close()


def test_failures_are_stored_and_retried_by_the_next_run(database: Path) -> None:
    engine = FakeEngine()
    engine.fail = {"e1"}
    work = Work("b", requests(CONTROL, TREATED))
    assert run(database, engine, work) == [Tally(answered=6, failed=2)]
    with Store(database) as store:
        assert (store.count("answers"), store.count("failures")) == (6, 2)
    assert run(database, FakeEngine(), work) == [Tally(stored=6, answered=2)]
    with Store(database) as store:
        assert (store.count("answers"), store.count("failures")) == (8, 0)


def test_what_was_answered_before_the_engine_went_is_kept(database: Path) -> None:
    engine = FakeEngine()
    engine.gone_after = 2
    with pytest.raises(ExceptionGroup) as caught:
        run(database, engine, Work("b", requests(CONTROL, TREATED)))
    assert isinstance(first_cause(caught.value), EngineError)
    with Store(database) as store:
        assert store.count("answers") == 4


def test_an_engine_that_cannot_start_fails_every_group_once(database: Path) -> None:
    starts = []

    def fail() -> FakeEngine:
        starts.append(1)
        raise EngineError("no model", "")

    pool = Pool(database, fail, SharedControls(database.parent / "x" / "c"))
    futures = [pool.submit(Work(name, requests(TREATED))) for name in "ab"]
    for future in futures:
        with pytest.raises(EngineError, match="no model"):
            future.result(10)
    pool.close()
    assert starts == [1]


def test_controls_are_shared_by_groups_but_never_for_an_aa_run(tmp_path: Path) -> None:
    shared, engines = tmp_path / "cache" / "controls", [FakeEngine(), FakeEngine()]
    for name, engine in zip("xy", engines, strict=True):
        path = tmp_path / name / DATABASE
        with Store(path) as store:
            entries = tuple(ManifestEntry(e, 0, 5, "sha", 8) for e in EXAMPLES)
            manifest = TaskManifest("task", "any_of", "v", "t", (Bin(0, 0, 9),), entries)
            store.save_manifest(manifest, {})
        work = Work("b", requests(CONTROL) + requests(CONTROL, aa=True) + requests(TREATED))
        run(path, engine, work, controls=shared)
    asked = [(r.arm.policy, r.aa) for batch in engines[1].batches for r in batch]
    assert ("none", False) not in asked
    assert asked.count(("none", True)) == asked.count(("knorm", False)) == 4


def test_two_groups_at_once_ask_a_shared_control_once(database: Path) -> None:
    engine = FakeEngine()
    tallies = run(database, engine, *[Work("b", requests(CONTROL))] * 5)
    assert sum(t.answered for t in tallies) == 4
    assert len(engine.batches) == 4


def test_a_torn_line_is_asked_again(tmp_path: Path, database: Path) -> None:
    shared = tmp_path / "cache" / "controls"
    work = Work("b", requests(CONTROL))
    run(database, FakeEngine(), work, controls=shared)
    (file,) = shared.rglob("control.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    database.unlink()
    with Store(database) as store:
        entries = tuple(ManifestEntry(e, 0, 5, "sha", 8) for e in EXAMPLES)
        store.save_manifest(TaskManifest("task", "any_of", "v", "t", (Bin(0, 0, 9),), entries), {})
    assert run(database, FakeEngine(), work, controls=shared) == [Tally(reused=3, answered=1)]
    database.unlink()
    with Store(database) as store:
        store.save_manifest(TaskManifest("task", "any_of", "v", "t", (Bin(0, 0, 9),), entries), {})
    assert run(database, FakeEngine(), work, controls=shared) == [Tally(reused=4)]


def test_registry_describes_the_files(tmp_path: Path, database: Path) -> None:
    shared = tmp_path / "cache" / "controls"
    run(database, FakeEngine(), Work("b", requests(CONTROL)), controls=shared)
    ((name, entry),) = SharedControls(shared).registry().items()
    content = (shared / name / "control.jsonl").read_bytes()
    assert entry["state"] == "completed"
    assert (entry["answers"], entry["bytes"]) == (4, len(content))


def test_closing_drops_what_is_under_way(database: Path) -> None:
    class Slow(FakeEngine):
        async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
            import asyncio

            await asyncio.sleep(60)
            return await super().answer(requests)

    pool = Pool(database, Slow, SharedControls(database.parent / "x" / "c"))
    future = pool.submit(Work("b", requests(TREATED)))
    closer = threading.Thread(target=pool.close)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()
    assert future.cancelled()


@pytest.mark.parametrize(
    ("budget", "achieved", "proof"),
    [
        (0.2, 0.2, "proven"),
        (0.2, 0.215, "proven"),
        (0.2, 1.0, "not-applied"),
        (0.2, None, "unverified"),
        (1.0, 1.0, "proven"),
        (1.0, 0.5, "not-applied"),
    ],
)
def test_proof(budget: float, achieved: float | None, proof: str) -> None:
    arm = dataclasses.replace(TREATED, budget=budget)
    assert proof_of(arm, Telemetry(0.1, achieved=achieved)) == proof


def test_a_short_prompt_may_be_off_by_one_token() -> None:
    short = Telemetry(0.1, achieved=9 / 20, prompt_tokens=20)
    assert proof_of(dataclasses.replace(TREATED, budget=0.49), short) == "proven"
    assert proof_of(dataclasses.replace(TREATED, budget=0.55), short) == "not-applied"


class Crowd(FakeEngine):
    """Answers nobody before `places` requests have come."""

    def __init__(self, places: int) -> None:
        super().__init__(1, places)
        self.come = 0
        self.full = asyncio.Event()

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        self.come += 1
        if self.come >= self.capabilities.places:
            self.full.set()
        await asyncio.wait_for(self.full.wait(), 30)
        return await super().answer(requests)


def test_one_group_fills_all_places_of_its_engine(database: Path, tmp_path: Path) -> None:
    engine = Crowd(places=600)
    asked = tuple(
        dataclasses.replace(request, replicate=n)
        for n in range(150)
        for request in requests(TREATED)
    )
    pool = Pool(database, lambda: engine, SharedControls(tmp_path / "controls"))
    try:
        assert pool.submit(Work("task-bin0", asked)).result().answered == 600
    finally:
        pool.close()
