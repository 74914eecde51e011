"""What slots do on a GPU alone, its interface played here: capturing a step, memory."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import kvpress
import pytest
import torch

from pytest_kvbench.errors import UsageError
from pytest_kvbench.policies.table import checked
from pytest_kvbench.server import decoding, seeing
from pytest_kvbench.server.choice import Choice
from pytest_kvbench.server.engine import ArmSpec, Done, Engine, Piece, Run
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.rows import Row
from pytest_kvbench.server.shape import GB, Memory, Shape
from pytest_kvbench.server.slots import Slots
from pytest_kvbench.server.worker import Worker
from tests.model.test_server_devices import NONE, SAMPLINGS, run
from tests.model.test_slots import beside, ids_of, job_of, model_of, snapkv
from tests.support.tiny_model import CONTEXT

pytestmark = pytest.mark.model

SPECS = [NONE, *snapkv(0.7, 0.4)]


class Played:
    """As much of `torch.cuda` as a capture uses; a graph's replay runs what was captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mode: Any = 0
        self.modes: list[Any] = []
        self.captures: list[str] = []
        self.replays = 0
        self.step: Any = None
        stream = type("Stream", (), {"wait_stream": lambda self, other: None})
        for name, value in {
            "Stream": stream,
            "current_stream": lambda *device: stream(),
            "stream": lambda one: contextlib.nullcontext(),
            "CUDAGraph": lambda: self,
            "graph": self.graph,
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": self.set_mode,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def set_mode(self, mode: Any) -> None:
        self.mode = mode
        self.modes.append(mode)

    @contextlib.contextmanager
    def graph(self, graph: Any, capture_error_mode: str) -> Iterator[None]:
        assert graph is self
        assert self.mode == 0, "a capture itself looks for waits"
        self.captures.append(capture_error_mode)
        yield

    def replay(self) -> None:
        self.replays += 1
        self.step()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def captured(model: LocalModel, cuda: Played, shape: Shape) -> Slots:
    slots = Slots(model, shape)
    slots._captures, cuda.step = True, slots._pass
    return slots


def test_a_captured_step_answers_as_one_that_is_run(cuda: Played) -> None:
    model = model_of()
    usual = run(Engine(model, PrefillCache(0)), ids_of(0), SPECS, SAMPLINGS["greedy"])
    slots = captured(model, cuda, Shape(4, CONTEXT, 64))
    assert (
        run(Engine(model, PrefillCache(0), slots), ids_of(0), SPECS, SAMPLINGS["greedy"]) == usual
    )
    assert cuda.captures == ["thread_local"]  # once, and other threads may go on
    assert cuda.replays == 5
    assert cuda.modes == ["error", 0]


def test_what_waits_for_the_device_is_found_before_it_is_captured(
    cuda: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a mixture of experts that counts tokens: a capture broken off spoils its process."""
    model = model_of()
    usual = run(Engine(model, PrefillCache(0)), ids_of(0), SPECS, SAMPLINGS["greedy"])
    slots = captured(model, cuda, Shape(4, CONTEXT, 64))
    plain = slots._pass

    def waiting() -> None:
        if cuda.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        plain()

    monkeypatch.setattr(slots, "_pass", waiting)
    assert (
        run(Engine(model, PrefillCache(0), slots), ids_of(0), SPECS, SAMPLINGS["greedy"]) == usual
    )
    assert not cuda.captures
    assert cuda.modes == ["error", 0]  # tried once, and left as it was


def test_no_memory_for_a_first_step_is_no_reason_never_to_capture_one(
    cuda: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = captured(model_of(), cuda, Shape(4, CONTEXT))
    plain = slots._pass

    def exhausted() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(slots, "_pass", exhausted)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        slots._run()
    monkeypatch.setattr(slots, "_pass", plain)
    with torch.inference_mode():
        slots._run()
    assert cuda.captures == ["thread_local"]


def test_a_slot_that_nobody_uses_is_not_read() -> None:
    slots = Slots(model_of(), Shape(3, CONTEXT))
    slots._state.copy_(torch.tensor([slots._idle, [7, 20, 20, 20, 20], slots._idle]).T)
    with torch.inference_mode():
        slots._pass()
    assert slots._store._until.tolist() == [[1, 21, 1]] * 3
    assert slots._store.mask.sum(-1).tolist() == [[1, 21, 1]] * 3
    assert slots._store.lengths.tolist() == [[CONTEXT - 1, 20, CONTEXT - 1]] * 3  # written there


def half_blind(*args: Any) -> torch.Tensor:
    """The last token of each slot is not seen."""
    query, keys, values, seen, scaling = args
    mask = seen.mask.clone()
    mask.scatter_(-1, (seen.lengths - 1).clamp(min=1)[:, None, None, None].long(), False)
    return seeing.masked(query, keys, values, seeing.Seen(mask, seen.lengths), scaling)


def neighbourly(*args: Any) -> torch.Tensor:
    """A bit of the others is in every slot."""
    found = seeing.masked(*args)
    return found + found.mean(0, keepdim=True) * 1e-2


@pytest.mark.parametrize("capacity", [64, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_is_taken_where_it_is_right_and_each_slot_by_itself(
    capacity: int, dtype: torch.dtype
) -> None:
    keys, values = (torch.zeros(3, capacity, 2, 16, dtype=dtype).transpose(1, 2) for _ in range(2))
    assert seeing.agrees(seeing.masked, 6, keys, values)
    assert not seeing.agrees(half_blind, 6, keys, values)
    assert not seeing.agrees(neighbourly, 6, keys, values)
    assert not keys.any()
    assert not values.any()


def places(runs: list[Run]) -> list[Any]:
    return [run.kv.place for run in runs if isinstance(run, Row)]


def test_who_comes_after_others_is_in_a_slot_at_once() -> None:
    """Else its arms lie in memory that nobody set aside, until the next step."""
    model = model_of()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(3, CONTEXT, 64)))
    for index in range(3):
        runs = engine.start(job_of(ids_of(index, 40), SPECS, lambda event: None))
        assert None not in places(runs)
        while runs:
            runs = engine.step(runs)


def test_slots_are_free_again_after_a_step_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    slots = Slots(model, Shape(3, CONTEXT))
    engine = Engine(model, PrefillCache(0), slots)
    right = run(engine, ids_of(1), SPECS, SAMPLINGS["greedy"])
    plain, events = slots._run, list[Any]()

    def exhausted() -> None:
        monkeypatch.setattr(slots, "_run", plain)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(slots, "_run", exhausted)
    with pytest.raises(AssertionError, match="OutOfMemoryError"):
        beside(engine, [job_of(ids_of(0), SPECS, events.append)])
    found: list[Any] = []
    started = Engine.start

    def noting(self: Engine, job: Any) -> list[Run]:
        runs = started(self, job)
        found.extend(places(runs))
        return runs

    monkeypatch.setattr(Engine, "start", noting)
    again = list[Any]()
    beside(engine, [job_of(ids_of(1), SPECS, again.append, max_tokens=6)])
    assert len(found) == 3
    assert None not in found
    pieces = [event for event in again if isinstance(event, Piece)]
    texts = ["".join(p.text for p in pieces if p.index == arm) for arm in range(len(SPECS))]
    assert texts == [text for text, _ in right]


ALONE = [
    ArmSpec(*checked("observed_attention", {}), 0.6),
    ArmSpec(*checked("composed", {"presses": ["knorm", "keydiff"]}), 0.6),
]


@pytest.mark.parametrize("arm", ALONE, ids=lambda arm: arm.policy.name)
def test_a_policy_with_a_pass_of_its_own_is_in_a_slot_too(arm: ArmSpec) -> None:
    model = model_of()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(3, CONTEXT)))
    runs = engine.start(job_of(ids_of(0), [arm, NONE], lambda event: None))
    assert len(places(runs)) == 2
    assert None not in places(runs)


def test_more_than_a_slot_holds_is_refused_before_it_is_written() -> None:
    """A press may add tokens of its own; past its end a GPU's kernels fail the whole process."""
    model = model_of()
    row = Slots(model, Shape(2, 64)).row(room=20)
    fits, too_long = (torch.zeros(1, 2, count, 8) for count in (43, 44))
    row.fill(0, fits, fits)
    with pytest.raises(ValueError, match="longer than a slot of 63"):
        row.fill(1, too_long, too_long)


def test_a_prompt_that_is_given_up_gives_its_memory_back_at_once() -> None:
    model = model_of()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(2, CONTEXT, 32)))
    job = job_of(ids_of(0), [NONE], lambda event: None)
    gc.collect()
    gc.disable()
    try:
        runs = engine.step(engine.start(job))
        held = weakref.ref(runs[0])
        job.cancelled = True
        runs = engine.step(runs)
        assert not runs
        assert held() is None
    finally:
        gc.enable()


def test_a_press_that_finds_no_memory_fails_its_request_and_not_its_arm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, cache = model_of(), PrefillCache(2**30)
    engine = Engine(model, cache, Slots(model, Shape(3, CONTEXT)))
    usual = run(engine, ids_of(0), SPECS, SAMPLINGS["greedy"])
    assert cache.nbytes

    def exhausted(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr(kvpress.SnapKVPress, "score", exhausted)
        with pytest.raises(AssertionError, match=r"2\.00 GiB"):
            beside(engine, [job_of(ids_of(1), SPECS, lambda event: None)])
    assert not cache.nbytes
    assert run(engine, ids_of(0), SPECS, SAMPLINGS["greedy"]) == usual


def test_where_a_pass_of_its_own_finds_no_memory_other_arms_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, cache, arm = model_of(), PrefillCache(2**30), ALONE[0]
    engine = Engine(model, cache, Slots(model, Shape(3, CONTEXT)))
    usual = run(engine, ids_of(0), [NONE], SAMPLINGS["greedy"])
    plain = type(model.network).forward

    def exhausted(network: Any, *args: Any, **kwargs: Any) -> Any:
        if model.network.config._attn_implementation != "kvbench_ragged":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(network, *args, **kwargs)

    monkeypatch.setattr(type(model.network), "forward", exhausted)
    (alone, other) = run(engine, ids_of(0), [arm, NONE], SAMPLINGS["greedy"])
    assert "the device has no memory left for it" in alone[1].error
    assert other == usual[0]


def test_a_worker_that_is_told_to_ends_and_lets_its_engine_go() -> None:
    model = model_of()
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(2, CONTEXT)))
    held = weakref.ref(engine)
    ended: list[Any] = []
    worker = Worker(engine, threads=1, shared_rows=2)
    worker.submit(job_of(ids_of(0), [NONE], ended.append))
    worker.end()
    worker.start()
    worker.join(60)
    assert not worker.is_alive()
    assert isinstance(ended[-1], Done)
    del engine, worker
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(("free", "fits"), [(3 * GB, True), (GB, False)])
def test_slots_for_which_others_leave_no_memory_are_refused_with_the_numbers(
    free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Shape]()
    monkeypatch.setattr(decoding, "Slots", lambda model, shape, left: made.append(shape))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * 10**8)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**8)
    memory = Memory(weights=50 * GB, slots=GB, prompt=GB // 2, working=GB // 2, left=0)
    chosen = Choice("bfloat16", "cuda", "GPU", Shape(4, 128), memory, spread=False)
    model = replace(model_of(), device=torch.device("cuda"))
    if fits:
        decoding.engine(model, chosen, PrefillCache(0))
        assert made == [chosen.shape]
        return
    with pytest.raises(UsageError) as error:
        decoding.engine(model, chosen, PrefillCache(0))
    assert "need 2.0 GB beside the weights, and 1.1 GB" in error.value.what
    assert not made
