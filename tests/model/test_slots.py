"""Decoding in slots, here on a CPU: the answers of ragged rows, whatever else is in the batch."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from pytest_kvbench.policies.table import get_policy
from pytest_kvbench.server import decoding, ragged
from pytest_kvbench.server.choice import Choice
from pytest_kvbench.server.decoder import Decoder, Ragged
from pytest_kvbench.server.engine import ArmSpec, Done, Engine, Job, Piece, Run
from pytest_kvbench.server.jobs import Force
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.prefill import Begun, passes, prefill
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.rows import Decoding
from pytest_kvbench.server.shape import Shape, TooLargeError
from pytest_kvbench.server.slots import Slots
from pytest_kvbench.server.worker import Worker
from tests.model.test_server_devices import NONE, SAMPLINGS, Answers, answers, run
from tests.support.tiny_model import CONTEXT, SIZES, longrope, tiny_of

pytestmark = pytest.mark.model

GREEDY = SAMPLINGS["greedy"]
LAYERS = SIZES["num_hidden_layers"]
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MakeDecoder = Callable[[LocalModel], Decoder]

WAYS: dict[str, MakeDecoder] = {
    "slots": lambda model: Slots(model, Shape(8, CONTEXT)),
    "few slots, prompts in several passes": lambda model: Slots(model, Shape(3, CONTEXT, 32)),
    "rows of any length, prompts in several passes": lambda model: Ragged(model, chunk=32),
}


def model_of(dtype: str = "float32", **more: Any) -> LocalModel:
    return tiny_of(LlamaConfig(**{**SIZES, **more}), dtype=TYPES[dtype])


def ids_of(index: int, tokens: int = 150) -> list[int]:
    return [(n * 37 + index * 11) % 251 for n in range(tokens)]


def snapkv(*budgets: float) -> list[ArmSpec]:
    policy = get_policy("snapkv")
    params = policy.with_defaults({"window_size": 8})
    return [ArmSpec(policy, params, budget) for budget in budgets]


SWEEP = snapkv(1.0, 0.9, 0.7, 0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def usual() -> dict[str, Answers]:
    return {name: answers("cpu", sampling) for name, sampling in SAMPLINGS.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_way_answers_alike(way: str, sampling: str, usual: dict[str, Answers]) -> None:
    assert answers("cpu", SAMPLINGS[sampling], WAYS[way]) == usual[sampling]


class Recorder:
    """What jobs emit, and the logits that each of their tokens was taken from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.logits: dict[tuple[int, int], list[torch.Tensor]] = {}
        plain = Decoding.take

        def take(row: Any, logits: torch.Tensor, *more: Any) -> None:
            self.jobs.append(row.job)  # else another may get its id
            key = (id(row.job), getattr(row, "_index", -1))
            self.logits.setdefault(key, []).append(logits.clone())
            plain(row, logits, *more)

        monkeypatch.setattr(Decoding, "take", take)

    def of(self, job: Job, arm: int) -> torch.Tensor:
        return torch.stack(self.logits[id(job), arm])


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def job_of(ids: Sequence[int], specs: Sequence[ArmSpec], emit: Any, **more: Any) -> Job:
    given = {"max_tokens": 8, "sampling": GREEDY, "stops": [], **more}
    return Job(ids, specs, emit=emit, created=time.perf_counter(), **given)


def beside(engine: Engine, jobs: Sequence[Job], shared_rows: int = 32) -> None:
    """Run jobs as a server does, as many at a time as it lets in."""
    worker = Worker(engine, threads=1, shared_rows=shared_rows)
    ended: queue.Queue[Any] = queue.Queue()
    for job in jobs:
        emit = job.emit

        def told(event: Any, emit: Any = emit) -> None:
            emit(event)
            if isinstance(event, Done | Exception):
                ended.put(event)

        job.emit = told
        worker.submit(job)
    worker.start()
    worker.end()
    for _ in jobs:
        assert isinstance(event := ended.get(timeout=300), Done), event


@pytest.mark.parametrize("dtype", TYPES)
def test_no_bit_of_an_answer_depends_on_what_it_is_beside(dtype: str, recorder: Recorder) -> None:
    shape = Shape(8, CONTEXT, 64)
    specs = [SWEEP, snapkv(0.6, 0.4), [NONE], snapkv(0.8)]
    model = model_of(dtype)

    def jobs() -> list[Job]:
        sized = enumerate(specs)
        return [job_of(ids_of(n, 100 + 30 * n), some, lambda event: None) for n, some in sized]

    alone = jobs()
    for job in alone:
        beside(Engine(model, PrefillCache(0), Slots(model, shape)), [job])
    together = jobs()
    beside(Engine(model, PrefillCache(2**30), Slots(model, shape)), together)
    for one, other in zip(alone, together, strict=True):
        for arm in range(len(one.arms)):
            assert torch.equal(recorder.of(one, arm), recorder.of(other, arm))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_sweep_is_its_singles_bit_by_bit(dtype: str, recorder: Recorder) -> None:
    """Also where it has more arms than there are slots, and a question behind the context."""
    model = model_of(dtype)
    specs = [
        *SWEEP,
        *(ArmSpec(s.policy, s.params, s.budget, 120) for s in SWEEP if 0.2 < s.budget < 1),
    ]
    sweep = job_of(ids_of(2), specs, lambda event: None)
    beside(Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT))), [sweep])
    for arm, spec in enumerate(specs):
        single = job_of(ids_of(2), [spec], lambda event: None)
        beside(Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT))), [single])
        if spec.budget < 1:
            assert torch.equal(recorder.of(sweep, arm), recorder.of(single, 0))


@pytest.mark.parametrize("left", [float("nan"), float("inf"), 1e30])
def test_nothing_of_who_was_in_a_slot_before_is_left(left: float, recorder: Recorder) -> None:
    model = model_of()
    slots = Slots(model, Shape(2, CONTEXT))
    clean, dirty = (job_of(ids_of(4), snapkv(0.4), lambda event: None) for _ in range(2))
    beside(Engine(model, PrefillCache(0), slots), [clean])
    slots.arrange([], [])
    full = torch.full((1, SIZES["num_key_value_heads"], CONTEXT - 8, SIZES["head_dim"]), left)
    rows = [slots.row(7), slots.row(7)]
    for row in rows:
        for layer in range(LAYERS):
            row.fill(layer, full, full)
    beside(Engine(model, PrefillCache(0), slots), [dirty])
    assert torch.equal(recorder.of(clean, 0), recorder.of(dirty, 0))


def last_of(steps: Generator[None, None, Begun]) -> Begun:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            begun: Begun = end.value
            return begun


def test_what_is_known_of_a_prompt_changes_no_bit_of_it() -> None:
    model = model_of("bfloat16")
    cache = PrefillCache(2**30)
    logits = []
    for known, ids in ((cache, ids_of(5, 140)), (cache, ids_of(5)), (PrefillCache(0), ids_of(5))):
        with torch.inference_mode():
            logits.append(prefill(model, known, last_of(passes(model, known, ids, 32)), []))
    assert [one.cached_tokens for one in logits] == [0, 128, 0]
    assert torch.equal(logits[1].logits, logits[2].logits)


def test_rows_decode_between_the_passes_over_a_long_prompt() -> None:
    model, order = model_of(), list[str]()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT, 32)))

    def noting(name: str) -> Callable[[Any], None]:
        return lambda event: order.append(name)

    runs: list[Run] = engine.start(job_of(ids_of(0, 30), [NONE], noting("short"), max_tokens=12))
    runs += engine.start(job_of(ids_of(1, 200), [NONE], noting("long")))
    while runs:
        runs = engine.step(runs)
    assert order.index("long") == 5  # 200 tokens are seven passes of 32
    assert order.count("long") > 2


def test_one_prompt_at_a_time_is_on_its_way() -> None:
    """There is memory for one; a worker asks before it lets a job in."""
    model = model_of()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT, 32)))
    long, short = (job_of(ids_of(0, n), [NONE], lambda event: None) for n in (150, 30))
    runs = engine.start(long)
    assert not engine.admits(short, runs)
    while not isinstance(runs[0], Decoding):
        runs = engine.step(runs)
    assert engine.admits(short, runs)


def test_a_job_that_is_given_up_gives_its_slots_back() -> None:
    model = model_of()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT)))
    jobs = [job_of(ids_of(n), snapkv(0.5, 0.3), lambda event: None) for n in (0, 1, 2)]
    runs = engine.start(jobs[0]) + engine.start(jobs[1])
    assert not engine.admits(jobs[2], runs)
    jobs[1].cancelled = True
    assert engine.admits(jobs[2], engine.step(runs))


def test_a_reply_is_asked_about_beside_slots_as_without_them() -> None:
    found = []
    for make in (None, WAYS["slots"], WAYS["few slots, prompts in several passes"]):
        model, events = model_of(), list[Any]()
        jobs = [
            job_of(ids_of(3), [NONE, *snapkv(0.5, 0.3)], events.append, force=Force()),
            job_of(ids_of(3), snapkv(0.5), lambda event: None),
        ]
        beside(Engine(model, PrefillCache(0), make and make(model)), jobs)
        found.append([one.forced for one in events if isinstance(one, Piece)])
    for other in found[1:]:
        for one, usual in zip(other, found[0], strict=True):
            assert one.reference == usual.reference
            assert one.nll == pytest.approx(usual.nll, abs=1e-5)


def test_where_the_longest_row_turns_all_each_takes_its_own_pass(recorder: Recorder) -> None:
    rope = longrope(SIZES["head_dim"] // 2)
    model = model_of(rope_parameters=rope)
    assert model.turns_by_length
    pairs = []
    for shared_rows in (1, 32):
        engine = Engine(model, PrefillCache(0))
        jobs = [
            job_of(ids_of(n, size), [NONE], lambda event: None) for n, size in ((0, 40), (1, 150))
        ]
        beside(engine, jobs, shared_rows)
        pairs.append([recorder.of(job, 0) for job in jobs])
    assert all(torch.equal(*each) for each in zip(*pairs, strict=True))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 4), (6, 1)])
def test_the_end_of_a_prompt_is_attended_to_as_on_a_gpu(heads: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, heads, 5, 8)
    keys, values = torch.randn(2, 1, kv_heads, 13, 8)
    usual = ragged._go_on(query, keys, values, 0.3)
    torch.testing.assert_close(ragged.end_of_prompt(query, keys, values, 0.3), usual)


def test_rows_that_wait_beside_the_slots_are_counted() -> None:
    one = 2 * LAYERS * SIZES["num_key_value_heads"] * SIZES["head_dim"] * 4 * 200
    slots = Slots(model_of(), Shape(4, CONTEXT), left=2 * one)
    assert [slots.beyond(arms, 200) for arms in (3, 4, 6)] == [0, 0, 2 * one]
    with pytest.raises(TooLargeError, match="7 arms of 200 tokens"):
        slots.beyond(7, 200)


def test_a_server_with_slots_is_no_longer_than_they_are() -> None:
    chosen = Choice("float32", "cpu", shape=Shape(4, 128, 64))
    engine = decoding.engine(model_of(), chosen, PrefillCache(0))
    assert engine.model.context_length == 127
    told = run(engine, ids_of(0, 121), [NONE, *snapkv(0.5)], GREEDY)  # and six new ones
    assert told == run(
        Engine(model_of(), PrefillCache(0)), ids_of(0, 121), [NONE, *snapkv(0.5)], GREEDY
    )
