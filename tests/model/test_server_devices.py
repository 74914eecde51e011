"""What another device does differently: how attention lays its result out, and where tensors are.

The CPU's attention returns (row, head, token, width) in that order of memory; CUDA's kernels return
the same values laid out by token. Only the tests marked `cuda` see a real GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from torch.nn import functional
from transformers.integrations import sdpa_attention

from pytest_kvbench.policies.table import POLICIES, get_policy
from pytest_kvbench.server import intake, protocol, ragged, seeing
from pytest_kvbench.server.decoder import Decoder
from pytest_kvbench.server.drawing import Sampling
from pytest_kvbench.server.engine import ArmReport, ArmSpec, Engine, Job, Piece, Run
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.server import Served, build_app
from pytest_kvbench.server.shape import Shape
from pytest_kvbench.server.slots import Slots
from pytest_kvbench.server.worker import Worker
from tests.support.tiny_model import CONTEXT, tiny_model

pytestmark = pytest.mark.model

SAMPLINGS = {"greedy": Sampling(0.0, 1.0, 0), "drawn": Sampling(0.9, 0.8, 3)}
NONE = ArmSpec(get_policy("none"), {}, 1.0)
Answers = list[tuple[str, ArmReport]]


def arms(context: int) -> list[ArmSpec]:
    """Every policy, over the whole prompt and over a context with a question behind it."""
    short = {"window_size": 8, "n_sink": 2}
    return [
        ArmSpec(policy, policy.with_defaults(_known(policy, short)), budget, split)
        for policy in map(get_policy, POLICIES)
        for budget, split in ((0.5, None), (0.6, context))
        if policy.press
    ]


def _known(policy: Any, params: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in params.items() if name in policy.params}


def answers(
    device: str, sampling: Sampling, make: Callable[[LocalModel], Decoder] | None = None
) -> Answers:
    """Two prompts that share a beginning, so that prefill, reuse and decoding all run."""
    model = tiny_model(device)
    engine = Engine(model, PrefillCache(2**30), make and make(model))
    found: Answers = []
    for tail in ([7, 8, 9], [11, 12, 13, 14, 15]):
        ids = [(n * 37) % 251 for n in range(150)] + tail
        specs = [NONE, *arms(150)]
        found += run(engine, ids, specs, sampling)
    return found


def run(engine: Engine, ids: list[int], specs: list[ArmSpec], sampling: Sampling) -> Answers:
    events: list[Any] = []
    rows = engine.start(Job(ids, specs, 6, sampling, [], events.append, created=time.time()))
    while rows:
        rows = engine.step(rows)
    pieces = [event for event in events if isinstance(event, Piece)]
    return [
        ("".join(p.text for p in pieces if p.index == index), report)
        for index, report in enumerate(events[0])
    ]


@pytest.fixture
def laid_out_by_token(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Attention as CUDA's kernels return it; counts its calls."""
    calls: list[int] = []
    plain: Callable[..., torch.Tensor] = functional.scaled_dot_product_attention

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = plain(*args, **kwargs)
        calls.append(out.shape[2])
        return out.transpose(1, 2).contiguous().transpose(1, 2)

    for module in (ragged, seeing):
        monkeypatch.setattr(module, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    assert sdpa_attention.torch.nn.functional is functional
    yield calls
    assert calls


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_answers_do_not_depend_on_how_attention_lays_its_result_out(
    sampling: str, request: pytest.FixtureRequest
) -> None:
    usual = answers("cpu", SAMPLINGS[sampling])
    calls = request.getfixturevalue("laid_out_by_token")
    assert answers("cpu", SAMPLINGS[sampling]) == usual
    assert max(calls) >= 150  # prefill
    assert 2 in calls  # a step: two query heads of one key head


def test_nor_do_they_in_slots(request: pytest.FixtureRequest) -> None:
    def in_slots(model: LocalModel) -> Slots:
        return Slots(model, Shape(8, CONTEXT, 64))

    usual = answers("cpu", SAMPLINGS["greedy"], in_slots)
    calls = request.getfixturevalue("laid_out_by_token")
    assert answers("cpu", SAMPLINGS["greedy"], in_slots) == usual
    assert 2 in calls


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 4), (6, 1)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_row_of_any_shape_is_attended_to_alike(
    heads: int, kv_heads: int, count: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, heads, count, 8)
    keys = [torch.randn(1, kv_heads, length, 8) for length in (5, 9)]
    values = [torch.randn_like(key) for key in keys]
    module = torch.nn.Module()
    usual, _ = ragged.ragged_attention(module, query, keys, values, None)
    request.getfixturevalue("laid_out_by_token")
    other, _ = ragged.ragged_attention(module, query, keys, values, None)
    assert torch.equal(usual, other)
    assert usual.shape == (2, count, heads, 8)


@pytest.fixture
def numbers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What makes a program wait for its device: the ways one number is read off it."""
    read: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(torch.Tensor, name)

        def method(tensor: torch.Tensor) -> Any:
            read.append(name)
            return plain(tensor)

        return method

    for name in ("__int__", "__float__", "__bool__", "__index__", "item"):
        monkeypatch.setattr(torch.Tensor, name, counted(name))
    return read


def test_a_step_of_many_rows_reads_no_number_of_each(numbers_read: list[str]) -> None:
    engine, snapkv = Engine(tiny_model(), PrefillCache(0)), get_policy("snapkv")
    params = snapkv.with_defaults({"window_size": 8})
    specs = [ArmSpec(snapkv, params, budget / 10) for budget in range(2, 10)]
    ids = [(n * 37) % 251 for n in range(150)]
    rows = engine.start(Job(ids, specs, 6, SAMPLINGS["greedy"], [], lambda event: None))
    assert len(rows) == 8
    numbers_read.clear()
    engine.step(rows)
    assert not numbers_read


def test_what_is_captured_reads_no_number(numbers_read: list[str]) -> None:
    """A capture fails where a program waits for its device, in the model's own code too."""
    held = Slots(tiny_model(), Shape(4, CONTEXT))
    numbers_read.clear()
    with torch.inference_mode():
        held._pass()
    assert not numbers_read


def test_taking_a_request_in_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(*_args: Any) -> None:
        raise AssertionError("the thread that serves HTTP waits for the model's")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    model = replace(tiny_model(), device=torch.device("cuda"))
    body = {"model": "m", "prompt": "Some words", "max_tokens": 3}
    request = protocol.parse(protocol.CompletionRequest, json.dumps(body).encode())
    assert intake.make_job(model, request, lambda event: None).max_tokens == 3


class Exhausted(Engine):
    """Its first job finds no memory; then as ever."""

    def start(self, job: Job) -> list[Run]:
        if job.max_tokens == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().start(job)


def test_a_request_without_memory_fails_alone_and_what_was_kept_is_given_back() -> None:
    cache = PrefillCache(2**30)
    engine = Exhausted(tiny_model(), cache)
    run(engine, [(n * 37) % 251 for n in range(150)], [NONE], SAMPLINGS["greedy"])
    assert cache.nbytes
    served = Served(tiny_model(), ("m",), {}, Worker(engine, threads=1, shared_rows=32))
    served.worker.start()
    with TestClient(build_app(served)) as http:
        body = {"model": "m", "prompt": "Some words", "temperature": 0}
        failed = http.post("/v1/completions", json={**body, "max_tokens": 1})
        assert failed.status_code == 507
        assert failed.json()["error"]["code"] == "out_of_memory"
        assert "2.00 GiB" in failed.json()["error"]["message"]
        assert not cache.nbytes
        assert http.post("/v1/completions", json={**body, "max_tokens": 2}).status_code == 200


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuda: torch sees no GPU here")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_gpu_answers_as_the_cpu_does(sampling: str) -> None:
    on_gpu, on_cpu = (answers(device, SAMPLINGS[sampling]) for device in ("cuda", "cpu"))
    assert [report for _, report in on_gpu] == [report for _, report in on_cpu]
    assert on_gpu[0] == on_cpu[0]  # the full cache
    same = [
        gpu == cpu
        for (gpu, report), (cpu, _) in zip(on_gpu, on_cpu, strict=True)
        if report.policy != "random"  # a GPU's generator draws other numbers
    ]
    assert sum(same) >= 0.9 * len(same)  # sums are rounded otherwise: near ties may fall otherwise
