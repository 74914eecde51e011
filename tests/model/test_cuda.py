"""What only a GPU can show: `make gpu` runs these; elsewhere each is skipped by name."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import kvpress
import pytest
import torch
from transformers import DynamicCache, LlamaConfig

from pytest_kvbench.server import seeing
from pytest_kvbench.server.engine import Engine, Job, Piece
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.shape import Shape
from pytest_kvbench.server.slots import Slots
from tests.model.test_server_devices import NONE, SAMPLINGS, answers
from tests.model.test_slots import Recorder, beside, ids_of, job_of, snapkv
from tests.model.test_slots import recorder as recorder
from tests.support.tiny_model import SIZES, tiny_of

pytestmark = [
    pytest.mark.model,
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="cuda: torch sees no GPU here"),
]

CONTEXT = 4096
BUDGETS = (0.9, 0.7, 0.5, 0.4, 0.3, 0.2)
SHAPE = Shape(8, CONTEXT, 512)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAME_AT_LEAST = {"float32": 1.0, "bfloat16": 0.8}
"""In bfloat16 near ties of random weights fall otherwise where a pass has another shape."""


def wide_model(dtype: str) -> LocalModel:
    """Random weights in the shapes of real heads: 64 wide, four queries a key."""
    wide = {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": CONTEXT,
    }
    return tiny_of(LlamaConfig(**{**SIZES, **wide}), "cuda", TYPES[dtype])


def engine_of(model: LocalModel, known: int = 0) -> Engine:
    return Engine(model, PrefillCache(known), Slots(model, SHAPE))


@torch.inference_mode()
def of_kvpress(model: LocalModel, budget: float, ids: list[int], tokens: int) -> str:
    """kvpress used directly, with stock attention."""
    config, cache, press = model.network.config, DynamicCache(), kvpress.SnapKVPress(1 - budget)
    press.window_size = 8
    ours, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        with press(model.network):
            logits = _ask(model, ids, 0, cache)
        new = [int(logits.argmax())]
        while len(new) < tokens:
            logits = _ask(model, new[-1:], len(ids) + len(new) - 1, cache)
            new.append(int(logits.argmax()))
    finally:
        config._attn_implementation = ours
    return model.decode(new)


def _ask(model: LocalModel, ids: Sequence[int], start: int, cache: DynamicCache) -> torch.Tensor:
    places = torch.arange(start, start + len(ids), device=model.device)[None]
    tokens = torch.tensor([list(ids)], device=model.device)
    output = model.network(tokens, position_ids=places, past_key_values=cache, logits_to_keep=1)
    logits: torch.Tensor = output.logits[0, -1]
    return logits


def told(engine: Engine, ids: list[int], specs: Any, tokens: int = 12) -> list[str]:
    events: list[Any] = []
    beside(engine, [job_of(ids, specs, events.append, max_tokens=tokens)])
    pieces = [event for event in events if isinstance(event, Piece)]
    return ["".join(p.text for p in pieces if p.index == arm) for arm in range(len(specs))]


@pytest.mark.parametrize("dtype", TYPES)
def test_answers_are_those_of_kvpress_used_directly(dtype: str) -> None:
    model = wide_model(dtype)
    same = []
    for index in range(4):
        ids = ids_of(index, 400)  # in one pass, as there
        found = told(engine_of(model), ids, snapkv(*BUDGETS))
        pairs = zip(found, BUDGETS, strict=True)
        same += [text == of_kvpress(model, budget, ids, 12) for text, budget in pairs]
    assert sum(same) >= SAME_AT_LEAST[dtype] * len(same)


@pytest.mark.parametrize("dtype", TYPES)
def test_no_bit_depends_on_what_a_row_is_beside_or_on_what_is_known(
    dtype: str, recorder: Recorder
) -> None:
    """Captured steps, sweeps against singles, prompts in several passes and in one."""
    model = wide_model(dtype)
    specs = [NONE, *snapkv(*BUDGETS)]
    sweep = job_of(ids_of(0, 1300), specs, lambda event: None)
    others = [job_of(ids_of(n, 700 * n), snapkv(0.6, 0.4), lambda event: None) for n in (1, 2, 4)]
    beside(engine_of(model, 2**30), [others[0], sweep, *others[1:]])
    for arm, spec in enumerate(specs):
        single = job_of(ids_of(0, 1300), [spec], lambda event: None)
        beside(engine_of(model), [single])
        assert torch.equal(recorder.of(sweep, arm), recorder.of(single, 0))


def test_a_step_is_captured() -> None:
    model = wide_model("bfloat16")
    slots = Slots(model, SHAPE)
    beside(Engine(model, PrefillCache(0), slots), [job_of(ids_of(0), [NONE], lambda event: None)])
    assert slots._graph is not None


def test_attention_by_length_finds_what_masks_find() -> None:
    model = wide_model("bfloat16")
    size, heads = (8, 2048, 2, 64), model.network.config.num_attention_heads
    keys, values = (
        torch.zeros(size, dtype=torch.bfloat16, device="cuda").transpose(1, 2) for _ in range(2)
    )
    if seeing.fastest(model, keys, values) is seeing.masked:
        pytest.skip("this torch cannot attend by length")
    assert seeing.agrees(seeing.by_length, heads, keys, values)


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


@pytest.mark.usefixtures("free")
def test_memory_is_given_back_after_a_run() -> None:
    model = wide_model("bfloat16")
    engine = engine_of(model)
    told(engine, ids_of(0, 2000), snapkv(*BUDGETS))  # what is made once is made
    gc.collect()
    before = torch.cuda.memory_allocated()
    for index in range(3):
        told(engine, ids_of(index, 3000), snapkv(*BUDGETS))
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


@pytest.mark.usefixtures("free")
def test_a_request_that_finds_no_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide_model("bfloat16")
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
