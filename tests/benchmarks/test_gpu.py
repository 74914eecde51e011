"""The embedded engine beside the chip's own limits: a random Llama of 8B parameters, no download.

    pytest tests/benchmarks/test_gpu.py -n 0 -s

Copy bandwidth and matrix rate are measured in the same run, and every figure stands beside the
least that they allow; each line is printed as soon as it is known. Without a GPU the same runs on
a tiny shape, to show that it works; its figures mean nothing then, and no goal is checked.
"""

from __future__ import annotations

import gc
import queue
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from pytest_kvbench.policies.table import get_policy
from pytest_kvbench.server import ragged
from pytest_kvbench.server.drawing import Sampling
from pytest_kvbench.server.engine import ArmSpec, Done, Engine, Job, Piece
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.rows import Decoding
from pytest_kvbench.server.shape import Shape
from pytest_kvbench.server.slots import Slots
from pytest_kvbench.server.worker import Worker
from tests.support.tiny_model import SIZES, tiny_model

pytestmark = [pytest.mark.model]

BUDGETS = (0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}


@dataclass(frozen=True)
class Scale:
    """What is measured: lengths of prompts, new tokens, requests in flight by length."""

    config: dict[str, Any]
    dtype: torch.dtype
    lengths: tuple[int, ...]
    new: int
    long_reply: int
    flights: dict[int, tuple[int, ...]]
    rounds: int
    vector: int
    matrix: int


CHIP = Scale(
    LLAMA_8B,
    torch.bfloat16,
    (4_096, 16_384, 32_512),
    32,
    256,
    {4_096: (1, 4, 16), 16_384: (1, 4), 32_512: (1, 4)},
    3,
    2**30,
    8_192,
)
TINY = Scale(dict(SIZES), torch.float32, (64, 128), 4, 8, {64: (1, 4)}, 1, 2**16, 64)
CUDA = torch.cuda.is_available()
SCALE = CHIP if CUDA else TINY
DEVICE = torch.device("cuda" if CUDA else "cpu")


@dataclass(frozen=True)
class Floor:
    """The chip's measured limits: bytes and operations a second."""

    copies: float
    multiplies: float


def done() -> float:
    """Now, once the chip has done what it was given."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def fastest(run: Callable[[], Any], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        started = done()
        run()
        taken.append(done() - started)
    return min(taken)


@pytest.fixture(scope="module")
def floor() -> Floor:
    vector = torch.ones(SCALE.vector, dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(vector)
    matrix = torch.randn(SCALE.matrix, SCALE.matrix, device=DEVICE).to(SCALE.dtype)
    copied = fastest(lambda: other.copy_(vector), 10)
    multiplied = fastest(lambda: matrix @ matrix, 10)
    return Floor(2 * SCALE.vector / copied, 2 * SCALE.matrix**3 / multiplied)


@pytest.fixture(scope="module")
def model() -> LocalModel:
    ragged.register()
    torch.manual_seed(0)
    config = LlamaConfig(**SCALE.config, attn_implementation=ragged.ATTENTION)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(SCALE.dtype)
    try:
        with DEVICE:
            network = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(usual)
    tokenizer = tiny_model().tokenizer
    # Random weights never say that they are done: every reply has all of its tokens.
    return LocalModel(network, tokenizer, DEVICE, config.max_position_embeddings, frozenset())


@pytest.fixture
def engine(model: LocalModel) -> Iterator[Callable[[int, int], Engine]]:
    """Makes an engine with so many slots for prompts of so many tokens."""

    def made(slots: int, tokens: int) -> Engine:
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
        room = -(-(tokens + SCALE.long_reply + 1) // 256) * 256
        shape = Shape(slots, room, 2_048 if CUDA else 32)
        return Engine(model, PrefillCache(0), Slots(model, shape))

    yield made
    for name in ("last_exc", "last_value", "last_traceback"):  # of a test that failed: its engine
        sys.__dict__.pop(name, None)
    gc.collect()


class Table:
    """Lines as they come, so that what ends a run early loses none; and all of them at its end."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.missed: list[str] = []
        print(f"\n{_HEAD}", flush=True)

    def add(self, what: str, measured: str, least: str = "", goal: str = "") -> None:
        self.lines.append(f"| {what} | {measured} | {least} | {goal} |")
        print(f"\n{self.lines[-1]}", flush=True)

    def row(self, what: str, seconds: float, least: float, goal: str = "") -> float:
        """A line of times; how many times the floor it took."""
        ratio = seconds / least
        self.add(what, f"{seconds * 1e3:.1f} ms ({ratio:.1f} times)", f"{least * 1e3:.1f} ms", goal)
        return ratio

    def reach(self, what: str, reached: bool) -> None:
        """Note a goal. A test that fails would hold its engine's memory to the next that does."""
        if CUDA and not reached:
            self.missed.append(what)

    def end(self) -> None:
        print("\n".join([f"\n\n{_HEAD}", "| --- | --- | --- | --- |", *self.lines]), flush=True)


_HEAD = "| what | measured | floor | goal |"


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    name = torch.cuda.get_device_name() if CUDA else "no GPU: a tiny shape, figures mean nothing"
    print(f"\n{name}, torch {torch.__version__}")
    made = Table()
    yield made
    made.end()


Made = Callable[[int, int], Engine]


def ids_of(tokens: int, seed: int = 0) -> list[int]:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(1, 200, (tokens,), generator=made).tolist()


def arms(budgets: Sequence[float] = BUDGETS) -> list[ArmSpec]:
    policy = get_policy("snapkv")
    params = policy.with_defaults({} if CUDA else {"window_size": 8})
    return [ArmSpec(policy, params, budget) for budget in budgets]


def job(ids: list[int], specs: list[ArmSpec], new: int, emit: Callable[[Any], None]) -> Job:
    return Job(ids, specs, new, Sampling(0.0, 1.0, 0), [], emit, created=time.perf_counter())


def swept(engine: Engine, ids: list[int]) -> list[str]:
    events: list[Any] = []
    runs = engine.start(job(ids, arms(), SCALE.new, events.append))
    while runs:
        runs = engine.step(runs)
    assert isinstance(events[-1], Done), events[-1]
    pieces = [event for event in events if isinstance(event, Piece)]
    return ["".join(p.text for p in pieces if p.index == arm) for arm in range(len(BUDGETS))]


def separately(model: LocalModel, ids: list[int]) -> list[str]:
    """kvpress used directly, a run for each budget, with stock attention."""
    import kvpress

    config, texts = model.network.config, []
    ours, config._attn_implementation = config._attn_implementation, "sdpa"
    torch.backends.cuda.enable_cudnn_sdp(True)  # as where nobody has said anything
    try:
        for budget in BUDGETS:
            press = kvpress.SnapKVPress(compression_ratio=1 - budget)
            press.window_size = press.window_size if CUDA else 8
            texts.append(model.decode(_one_run(model, press, ids)))
    finally:
        config._attn_implementation = ours
        torch.backends.cuda.enable_cudnn_sdp(False)
    return texts


@torch.inference_mode()
def _one_run(model: LocalModel, press: Any, ids: list[int]) -> list[int]:
    cache = DynamicCache()
    with press(model.network):
        logits = _pass(model, ids, 0, cache)
    new = [int(logits.argmax())]
    while len(new) < SCALE.new:
        logits = _pass(model, new[-1:], len(ids) + len(new) - 1, cache)
        new.append(int(logits.argmax()))
    return new


def _pass(model: LocalModel, ids: list[int], start: int, cache: DynamicCache) -> torch.Tensor:
    places = torch.arange(start, start + len(ids), device=DEVICE)[None]
    output = model.network(
        torch.tensor([ids], device=DEVICE),
        position_ids=places,
        past_key_values=cache,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[0, -1]
    return logits


def numbers_of(model: LocalModel) -> tuple[int, int]:
    """How many weights all tokens of a pass meet, and how many more its last one does."""
    last = model.network.get_output_embeddings().weight.numel()
    count = sum(weight.numel() for weight in model.network.parameters())
    return count - last - model.network.get_input_embeddings().weight.numel(), last


def token_bytes(model: LocalModel) -> int:
    config = model.network.config
    size = torch.tensor([], dtype=SCALE.dtype).element_size()
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    return int(2 * layers * heads * model.head_dim * size)


def prefill_floor(model: LocalModel, floor: Floor, tokens: int) -> float:
    """Seconds of its multiplications; of attention what causality leaves."""
    config = model.network.config
    width = config.num_attention_heads * model.head_dim
    attention = 2 * tokens**2 * width * config.num_hidden_layers
    each, last = numbers_of(model)
    return (2 * each * tokens + 2 * last + attention) / floor.multiplies


def step_floor(model: LocalModel, floor: Floor, lengths: Sequence[float]) -> float:
    """Seconds to read weights and kept tokens once."""
    weights = sum(numbers_of(model)) * torch.tensor([], dtype=SCALE.dtype).element_size()
    return (weights + sum(lengths) * token_bytes(model)) / floor.copies


def test_the_chip(floor: Floor, table: Table) -> None:
    table.add("copying", f"{floor.copies / 1e12:.2f} TB/s")
    table.add("multiplying matrices", f"{floor.multiplies / 1e12:.0f} TFLOP/s")


@pytest.mark.parametrize("tokens", SCALE.lengths)
def test_prefill(model: LocalModel, engine: Made, floor: Floor, table: Table, tokens: int) -> None:
    made, ids = engine(1, tokens), ids_of(tokens)

    def once() -> None:
        runs = made.start(job(ids, [ArmSpec(get_policy("none"), {}, 1.0)], 1, lambda event: None))
        while runs:
            runs = made.step(runs)

    once()
    table.row(
        f"prefill, {tokens:,}", fastest(once, SCALE.rounds), prefill_floor(model, floor, tokens)
    )


@pytest.mark.parametrize("tokens", SCALE.lengths)
def test_a_decode_step(
    model: LocalModel, engine: Made, floor: Floor, table: Table, tokens: int
) -> None:
    made, goal = engine(len(BUDGETS), tokens), tokens <= 16_384
    runs = made.start(job(ids_of(tokens), arms(), SCALE.long_reply, lambda event: None))
    while not all(isinstance(run, Decoding) for run in runs):
        runs = made.step(runs)
    taken = []
    for _ in range(min(24, SCALE.long_reply - 3)):
        started = done()
        runs = made.step(runs)
        taken.append(done() - started)
    least = step_floor(model, floor, [tokens * budget for budget in BUDGETS])
    what = f"a step of 8 rows, {tokens:,}, {way_of(made)}"
    ratio = table.row(what, statistics.median(taken[3:]), least, "2 times" if goal else "")
    table.reach(what, ratio <= 2 or not goal)


def way_of(engine: Engine) -> str:
    """How it decodes: what was found to work on this card."""
    slots: Any = engine._decoder
    return f"{slots._store._attention.__name__}, {'captured' if slots._graph else 'run anew'}"


@pytest.mark.parametrize("tokens", SCALE.lengths[:2])
def test_a_sweep_against_separate_runs(
    model: LocalModel, engine: Made, floor: Floor, table: Table, tokens: int
) -> None:
    made, ids = engine(len(BUDGETS), tokens), ids_of(tokens)
    texts, right = swept(made, ids), separately(model, ids)
    took = fastest(lambda: swept(made, ids), SCALE.rounds)
    apart = fastest(lambda: separately(model, ids), 1)
    lengths = [tokens * budget for budget in BUDGETS]
    least = prefill_floor(model, floor, tokens) + SCALE.new * step_floor(model, floor, lengths)
    goal = "1.2 s" if tokens == 16_384 else ""
    table.row(f"a sweep of 8, {tokens:,}, {SCALE.new} new", took, least, goal)
    same = sum(one == other for one, other in zip(texts, right, strict=True))
    table.add(f"the same as 8 runs of kvpress; {same} of 8 equal", f"{apart * 1e3:.1f} ms")
    table.reach(f"a sweep, {tokens:,}", took <= 1.2 or not goal)
    if not CUDA:
        assert same == len(BUDGETS)


def a_minute(engine: Engine, tokens: int, flight: int, new: int) -> float:
    """Answers a minute with so many requests in flight."""
    worker = Worker(engine, torch.get_num_threads(), shared_rows=64)
    ended: queue.Queue[Any] = queue.Queue()
    count = 2 * flight

    def emit(event: Any) -> None:
        if isinstance(event, Done | Exception):
            ended.put(event)

    full = ArmSpec(get_policy("none"), {}, 1.0)
    jobs = [job(ids_of(tokens, seed), [full], new, emit) for seed in range(count)]
    worker.start()
    started = done()
    try:
        for one in jobs[:flight]:
            worker.submit(one)
        for number in range(count):
            assert isinstance(event := ended.get(timeout=600), Done), event
            if number + flight < count:
                worker.submit(jobs[number + flight])
        return 60 * count / (done() - started)
    finally:
        worker.end()  # else its thread keeps the engine's slots
        worker.join(60)


@pytest.mark.parametrize("new", [SCALE.new, SCALE.long_reply])
@pytest.mark.parametrize("tokens", SCALE.flights)
def test_answers_a_minute(
    model: LocalModel, engine: Made, floor: Floor, table: Table, tokens: int, new: int
) -> None:
    flights = SCALE.flights[tokens]
    made = engine(max(flights), tokens)
    a_minute(made, tokens, 1, 2)
    found, goal = {}, 2.5 if new == SCALE.new else 5.0
    for flight in flights:
        found[flight] = a_minute(made, tokens, flight, new)
        steps = new * step_floor(model, floor, [tokens] * flight) / flight
        most = 60 / (prefill_floor(model, floor, tokens) + steps)
        what = f"answers a minute, {tokens:,}, {new} new, {flight} in flight"
        told = f"{goal} times those of 1" if flight == 16 else ""
        table.add(what, f"{found[flight]:.1f}", f"at most {most:.1f}", told)
    if 16 in found:
        table.reach(f"16 in flight, {new} new", found[16] / found[1] >= goal)


def test_the_goals(table: Table) -> None:
    assert not table.missed
