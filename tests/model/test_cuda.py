"""What only a GPU can show: `make gpu` runs these; elsewhere each is skipped by name.

Most run on a CPU too, small, so that they themselves have been seen to run.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import kvpress
import pytest
import torch
from transformers import LlamaConfig

from pytest_kvbench.server import seeing
from pytest_kvbench.server.engine import Engine, Job, Piece
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.shape import Shape
from pytest_kvbench.server.slots import Slots
from tests.model.directly import of_kvpress
from tests.model.test_server_devices import NONE, SAMPLINGS, answers
from tests.model.test_slots import Recorder, beside, ids_of, job_of, snapkv
from tests.model.test_slots import recorder as recorder
from tests.support.tiny_model import SIZES, tiny_of

pytestmark = pytest.mark.model

ON_GPU = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="cuda: torch sees no GPU here"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
BUDGETS = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAME_AT_LEAST = {"float32": 1.0, "bfloat16": 0.5}
"""In bfloat16 near ties of random weights fall otherwise where a pass has another shape (16 of 18
answers were the same on a CPU); what is wrong has none of twelve tokens right."""


@dataclass(frozen=True)
class Sized:
    """What is looked at: small where only the test itself is to be tried."""

    sizes: dict[str, Any]
    shape: Shape
    unit: int


CONTEXT = {"cpu": 256, "cuda": 4096}
WIDE = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT["cuda"],
}
"""Random weights in the shapes of real heads: 64 wide, four queries a key."""

SIZED = {
    "cpu": Sized({}, Shape(8, CONTEXT["cpu"], 64), 40),
    "cuda": Sized(WIDE, Shape(8, CONTEXT["cuda"], 512), 700),
}


def model_on(device: str, dtype: str) -> LocalModel:
    sizes = {**SIZES, **SIZED[device].sizes}
    return tiny_of(LlamaConfig(**sizes), device, TYPES[dtype], CONTEXT[device])


def engine_of(model: LocalModel, known: int = 0) -> Engine:
    shape = SIZED[model.device.type].shape
    return Engine(model, PrefillCache(known), Slots(model, shape))


def gpu(test: Any) -> Any:
    """What has no meaning on a CPU."""
    for mark in ON_GPU:
        test = mark(test)
    return test


def told(engine: Engine, ids: list[int], specs: Any, tokens: int = 12) -> list[str]:
    events: list[Any] = []
    beside(engine, [job_of(ids, specs, events.append, max_tokens=tokens)])
    pieces = [event for event in events if isinstance(event, Piece)]
    return ["".join(p.text for p in pieces if p.index == arm) for arm in range(len(specs))]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_answers_are_those_of_kvpress_used_directly(device: str, dtype: str) -> None:
    model = model_on(device, dtype)
    same = []
    for index in range(4):
        # In one pass, as there.
        ids = ids_of(index, SIZED[device].shape.chunk - 1)
        found = told(engine_of(model), ids, snapkv(*BUDGETS))
        pairs = zip(found, BUDGETS, strict=True)
        same += [text == of_kvpress(model, press(budget), ids, 12) for text, budget in pairs]
    assert sum(same) >= SAME_AT_LEAST[dtype] * len(same)


def press(budget: float) -> Any:
    """Of the window that `snapkv` has in these tests."""
    made = kvpress.SnapKVPress(1 - budget)
    made.window_size = 8
    return made


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_no_bit_depends_on_what_a_row_is_beside_or_on_what_is_known(
    device: str, dtype: str, recorder: Recorder
) -> None:
    """Captured steps, sweeps against singles, prompts in several passes and in one."""
    model, unit = model_on(device, dtype), SIZED[device].unit
    specs = [NONE, *snapkv(*BUDGETS)]
    sweep = job_of(ids_of(0, 2 * unit), specs, lambda event: None)
    others = [job_of(ids_of(n, unit * n), snapkv(0.6, 0.4), lambda event: None) for n in (1, 2, 4)]
    beside(engine_of(model, 2**30), [others[0], sweep, *others[1:]])
    for arm, spec in enumerate(specs):
        single = job_of(ids_of(0, 2 * unit), [spec], lambda event: None)
        beside(engine_of(model), [single])
        assert torch.equal(recorder.of(sweep, arm), recorder.of(single, 0))


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_is_captured_where_it_can_be(device: str) -> None:
    model = model_on(device, "bfloat16")
    slots = Slots(model, SIZED[device].shape)
    beside(Engine(model, PrefillCache(0), slots), [job_of(ids_of(0), [NONE], lambda event: None)])
    assert (slots._graph is not None) == (device == "cuda")


@gpu
def test_attention_by_length_finds_what_masks_find() -> None:
    model = model_on("cuda", "bfloat16")
    size, heads = (8, 2048, 2, 64), model.network.config.num_attention_heads
    keys, values = (
        torch.zeros(size, dtype=torch.bfloat16, device="cuda").transpose(1, 2) for _ in range(2)
    )
    if seeing.fastest(model, keys, values) is seeing.masked:
        pytest.skip("this torch cannot attend by length")
    assert seeing.agrees(seeing.by_length, heads, keys, values)


@gpu
def test_in_slots_a_gpu_answers_as_the_cpu_does() -> None:
    def in_slots(device: str) -> Any:
        return answers(device, SAMPLINGS["greedy"], lambda model: Slots(model, Shape(8, 256, 64)))

    on_gpu, on_cpu = in_slots("cuda"), in_slots("cpu")
    assert [report for _, report in on_gpu] == [report for _, report in on_cpu]
    same = [gpu == cpu for (gpu, _), (cpu, _) in zip(on_gpu, on_cpu, strict=True)]
    assert sum(same) >= 0.9 * len(same)


@pytest.fixture
def free() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    yield
    gc.collect()
    torch.cuda.empty_cache()


@gpu
@pytest.mark.usefixtures("free")
def test_memory_is_given_back_after_a_run() -> None:
    model = model_on("cuda", "bfloat16")
    engine = engine_of(model)
    told(engine, ids_of(0, 2000), snapkv(*BUDGETS))  # what is made once is made
    gc.collect()
    before = torch.cuda.memory_allocated()
    for index in range(3):
        told(engine, ids_of(index, 3000), snapkv(*BUDGETS))
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


@gpu
@pytest.mark.usefixtures("free")
def test_a_request_that_finds_no_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_on("cuda", "bfloat16")
    engine = engine_of(model, 2**30)
    usual = told(engine, ids_of(0), snapkv(0.5))
    taken = Engine._begin
    held: list[torch.Tensor] = []

    def exhausted(self: Engine, job: Job, prepared: Any) -> Any:
        if job.max_tokens == 1:
            held.append(torch.empty(2**45, dtype=torch.uint8, device="cuda"))
        return taken(self, job, prepared)

    monkeypatch.setattr(Engine, "_begin", exhausted)
    with pytest.raises(AssertionError, match="OutOfMemoryError"):
        beside(engine, [job_of(ids_of(1), snapkv(0.5), lambda event: None, max_tokens=1)])
    assert told(engine, ids_of(0), snapkv(0.5)) == usual
