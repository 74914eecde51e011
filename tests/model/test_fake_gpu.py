"""Whole requests on a device that only pretends: operands meet on one device, or are refused.

Beside that, what a captured step may not do: wait for its device, or make tensors by numbers on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from pytest_kvbench.server import forcing, seeing
from pytest_kvbench.server.decoder import Ragged
from pytest_kvbench.server.engine import ArmSpec, Done, Engine
from pytest_kvbench.server.jobs import Force
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.shape import Shape
from pytest_kvbench.server.slots import Slots
from tests.model.test_server_devices import NONE, SAMPLINGS, arms
from tests.model.test_server_models import FAMILIES
from tests.model.test_slots import ids_of, job_of, snapkv
from tests.model.test_slots_on_a_gpu import ALONE
from tests.support import fake_gpu
from tests.support.fake_gpu import GPU, SECOND, FakeGpu
from tests.support.tiny_model import CONTEXT, SIZES

pytestmark = pytest.mark.model

LLAMA = LlamaConfig(**SIZES)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS: dict[str, Any] = {
    "slots": lambda model: Slots(model, Shape(4, CONTEXT, 64)),
    "rows of any length": Ragged,
}
DRAWS = "random"  # a generator of a device that is none cannot be made


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu.fake_gpu(monkeypatch) as mode:
        yield mode


def served(engine: Engine, specs: list[ArmSpec], **more: Any) -> None:
    """Two requests that share a beginning, to their ends; no arm failed but those that draw."""
    for tail in ([1, 2, 3], [4, 5, 6, 7, 8]):
        events: list[Any] = []
        runs = engine.start(
            job_of(ids_of(0, 150) + tail, specs, events.append, max_tokens=3, **more)
        )
        while runs:
            runs = engine.step(runs)
        assert isinstance(events[-1], Done), events[-1]
        errors = [report.error for report in events[0] if report.policy != DRAWS]
        assert not list(filter(None, errors))


@pytest.mark.parametrize(
    ("way", "dtype"), [("slots", "bfloat16"), ("rows of any length", "float32")]
)
def test_no_two_devices_meet(gpu: FakeGpu, way: str, dtype: str) -> None:
    model = fake_gpu.faked(gpu, LLAMA, TYPES[dtype])
    engine = Engine(model, PrefillCache(2**30), WAYS[way](model))
    served(engine, [NONE, *arms(150), *ALONE])
    served(engine, [NONE, *snapkv(0.5)], sampling=SAMPLINGS["drawn"])
    served(engine, [NONE, *snapkv(0.5)], force=Force())


@pytest.mark.parametrize("way", WAYS)
def test_nor_where_a_model_is_on_several(gpu: FakeGpu, way: str) -> None:
    model = fake_gpu.on_two(gpu, fake_gpu.faked(gpu, LLAMA, torch.bfloat16))
    weights = {weight.device for weight in model.network.parameters()}
    assert weights == {GPU, SECOND}
    engine = Engine(model, PrefillCache(2**30), WAYS[way](model))
    served(engine, [NONE, *arms(150)[1::2], *ALONE])


ATTENTIONS = {"masked": seeing.masked, "by length": seeing.by_length}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_captured_waits_for_nothing(gpu: FakeGpu, family: str, attention: str) -> None:
    model = fake_gpu.faked(gpu, FAMILIES[family], torch.bfloat16)
    slots = Slots(model, Shape(3, CONTEXT, 64))
    slots._store._attention = ATTENTIONS[attention]
    held = [slots._state, slots._logits, slots._likeliest, slots._store.mask, slots._store.lengths]
    gpu.waits.clear()
    slots._pass()
    assert not gpu.waits
    now = [slots._state, slots._logits, slots._likeliest, slots._store.mask, slots._store.lengths]
    assert all(one is other for one, other in zip(held, now, strict=True))  # written in place
    assert {one.device for one in now} == {GPU}


def test_a_reply_is_compared_at_once(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comparison waits for its device: a block for a core's cache would be two tokens."""
    compared, plain = list[int](), forcing.Asked.add

    def add(asked: forcing.Asked, figures: Any) -> None:
        compared.append(len(figures["nll"]))
        plain(asked, figures)

    monkeypatch.setattr(forcing.Asked, "add", add)
    monkeypatch.setattr(forcing, "_BLOCK", 2 * SIZES["vocab_size"])
    model = fake_gpu.faked(gpu, LLAMA, torch.bfloat16)
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(4, CONTEXT)))
    reply = Force(reference=ids_of(1, 30))
    runs = engine.start(job_of(ids_of(0), [NONE, *snapkv(0.5)], lambda e: None, force=reply))
    while runs:
        runs = engine.step(runs)
    assert compared == [1, 1, 29, 29]


def test_a_step_waits_for_its_device_twice_however_many_rows(gpu: FakeGpu) -> None:
    """What goes in, at once, and the likeliest tokens."""
    model = fake_gpu.faked(gpu, LLAMA, torch.bfloat16)
    engine = Engine(model, PrefillCache(0), Slots(model, Shape(8, CONTEXT)))
    runs = engine.start(
        job_of(ids_of(0), snapkv(0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2), lambda e: None)
    )
    gpu.waits.clear()
    engine.step(runs)
    copies = [name for name in gpu.waits if "scalar" not in name]
    assert copies == ["aten.copy_.default"]
    assert len(gpu.waits) == 1 + 8  # `tolist` of a fake tensor reads number after number
