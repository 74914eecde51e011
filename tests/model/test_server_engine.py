"""The engine in this process: reuse of prefills, jobs that decode together, text, sampling."""

from __future__ import annotations

import os
import queue
import time
from typing import Any

import pytest
import torch

from pytest_kvbench.policies.table import get_policy
from pytest_kvbench.server import model as model_module
from pytest_kvbench.server import weights
from pytest_kvbench.server.drawing import Sampler, Sampling
from pytest_kvbench.server.engine import ArmReport, ArmSpec, Done, Engine, Job, Piece
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import Layer, PrefillCache
from pytest_kvbench.server.text import TextStream
from pytest_kvbench.server.worker import Worker
from tests.model.conftest import MODEL, prompt_parts

pytestmark = pytest.mark.model

ROOMY = 2**30
GREEDY = Sampling(0.0, 1.0, 0)
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@pytest.fixture(scope="module")
def loaded() -> LocalModel:
    folder = weights.materialise(weights.resolve(MODEL))
    return model_module.load(folder, "float32", "cpu", THREADS)


def arms(*budgets: float, names: tuple[str, ...] = ("snapkv",), context: int | None = None) -> Any:
    policies = [get_policy(name) for name in names]
    return [
        ArmSpec(policy, policy.with_defaults({}), budget, context)
        for policy in policies
        for budget in budgets
    ]


def job(ids: list[int], specs: Any, emit: Any, **more: Any) -> Job:
    given = {"max_tokens": 8, "sampling": GREEDY, "stops": [], **more}
    return Job(ids, specs, emit=emit, created=time.perf_counter(), **given)


def run(engine: Engine, ids: list[int], specs: Any) -> tuple[list[str], list[ArmReport], Done]:
    events: list[Any] = []
    rows = engine.start(job(ids, specs, events.append))
    while rows:
        rows = engine.step(rows)
    return collected(events)


def collected(events: list[Any]) -> tuple[list[str], list[ArmReport], Done]:
    reports, done = events[0], events[-1]
    texts = [""] * len(reports)
    for piece in events[1:-1]:
        assert isinstance(piece, Piece)
        texts[piece.index] += piece.text
    assert isinstance(done, Done)
    return texts, reports, done


EVERY_POLICY = (
    "snapkv",
    "knorm",
    "streaming_llm",
    "tova",
    "expected_attention",
    "random",
    "keydiff",
    "pyramidkv",
)


def ids_of(loaded: LocalModel, index: int, question: str | None = None) -> tuple[list[int], int]:
    """A chat prompt in tokens, and how many of them are context."""
    context, asked = prompt_parts(index)
    text = loaded.render([{"role": "user", "content": context + (question or asked)}])
    ids, ends = loaded.encode(text)
    start = text.index(question or asked)
    return ids, sum(end <= start for end in ends)


def test_a_known_context_changes_no_answer(loaded: LocalModel) -> None:
    engine = Engine(loaded, PrefillCache(ROOMY))
    first, _ = ids_of(loaded, 6)
    second, context = ids_of(loaded, 6, "\n\nIs there a number in this text? Which one is it?")
    specs = [*arms(0.8, 0.3, names=EVERY_POLICY), *arms(0.6, context=context)]
    run(engine, first, arms(0.5))
    warm_texts, warm_reports, warm = run(engine, second, specs)
    cold_texts, cold_reports, cold = run(Engine(loaded, PrefillCache(0)), second, specs)
    assert cold.cached_tokens == 0
    assert warm.cached_tokens >= context - 1
    assert warm_texts == cold_texts
    assert warm_reports == cold_reports
    assert warm.timings.prefill_s < cold.timings.prefill_s


def test_the_same_prompt_again_is_hardly_computed(loaded: LocalModel) -> None:
    engine = Engine(loaded, PrefillCache(ROOMY))
    ids, _ = ids_of(loaded, 7)
    once = run(engine, ids, arms(1.0, 0.4))
    again = run(engine, ids, arms(1.0, 0.4))
    assert again[:2] == once[:2]
    assert again[2].cached_tokens == len(ids) - 1


def keep(cache: PrefillCache, ids: list[int]) -> None:
    """Add a prefill of two layers, 1,024 bytes a token together."""
    recording = cache.record()
    states = torch.zeros(1, 1, len(ids), 32)
    for _ in range(2):
        recording.add(Layer(torch.zeros(1, len(ids), 64), states, states))
    cache.add(ids, recording)


def test_the_prefill_cache_is_bounded_in_bytes_and_drops_the_oldest() -> None:
    cache = PrefillCache(200 * 1024)
    prompts = [list(range(start, start + 80)) for start in (0, 1000, 2000)]
    keep(cache, prompts[0])
    keep(cache, prompts[1])
    assert cache.find(prompts[0])  # used: the other one is now the oldest
    keep(cache, prompts[2])
    assert [bool(cache.find(prompt)) for prompt in prompts] == [True, False, True]
    assert cache.nbytes == 160 * 1024
    keep(cache, list(range(201)))
    assert cache.nbytes == 160 * 1024  # too large to keep: nothing else left for it


def test_the_prefill_cache_finds_the_longest_beginning_that_is_worth_it() -> None:
    cache = PrefillCache(ROOMY)
    prompt = list(range(160))
    keep(cache, [*prompt[:80], *[-1] * 80])
    keep(cache, [*prompt[:120], *[-1] * 40])
    found = cache.find(prompt)
    assert [layer.keys.shape[2] for layer in found] == [120, 120]
    assert [layer.hidden.shape[1] for layer in found] == [120, 120]
    assert cache.find(prompt[:100])[0].keys.shape[2] == 99  # the last token is always computed
    assert cache.find([*prompt[:79], *[-2] * 81]) == []  # less than half
    assert cache.find(prompt[:60]) == []  # all of it, but hardly anything


def test_jobs_that_decode_together_answer_as_if_alone(loaded: LocalModel) -> None:
    engine = Engine(loaded, PrefillCache(0))
    prompts = [ids_of(loaded, index)[0] for index in range(8, 12)]
    specs = [arms(1.0), arms(0.9, 0.5, 0.2), arms(0.6, names=("knorm", "tova")), arms(0.3)]
    alone = [run(engine, ids, arm)[:2] for ids, arm in zip(prompts, specs, strict=True)]
    events: list[list[Any]] = [[] for _ in prompts]
    ended: queue.Queue[int] = queue.Queue()
    worker = Worker(engine, THREADS, shared_rows=16)

    def emit_to(index: int) -> Any:
        def emit(event: Any) -> None:
            events[index].append(event)
            if isinstance(event, Done):
                ended.put(index)

        return emit

    for index, (ids, arm) in enumerate(zip(prompts, specs, strict=True)):
        worker.submit(job(ids, arm, emit_to(index)))
    worker.start()
    for _ in prompts:
        ended.get(timeout=300)
    together = [collected(one) for one in events]
    assert [one[:2] for one in together] == alone
    # They did share steps: their decoding times add up to more than they took.
    assert together[0][2].timings.queue_s > together[1][2].timings.prefill_s / 2


def test_a_job_that_fails_is_told_and_the_next_one_runs(loaded: LocalModel) -> None:
    engine = Engine(loaded, PrefillCache(0))
    worker = Worker(engine, THREADS, shared_rows=16)
    events: queue.Queue[Any] = queue.Queue()
    worker.submit(job([10**9], arms(1.0), events.put))  # no such token
    worker.submit(job(ids_of(loaded, 0)[0], arms(1.0), events.put, max_tokens=1))
    worker.start()
    assert isinstance(events.get(timeout=60), IndexError)
    assert isinstance(events.get(timeout=60)[0], ArmReport)


def test_stop_strings_may_span_tokens_and_are_never_shown(loaded: LocalModel) -> None:
    ids, _ = loaded.encode("one two three four, five six")
    stream = TextStream(loaded.backend, ["ee fo", "never"])
    shown = []
    for token in ids:
        shown.append(stream.push(token))
        if stream.stopped:
            break
    assert stream.stopped
    assert "".join(shown) + stream.finish() == "one two thr"
    assert "".join(shown) in "one two thr"  # what could be the stop string was held back


def test_text_held_back_for_a_stop_string_comes_out_at_the_end(loaded: LocalModel) -> None:
    ids, _ = loaded.encode("naïve café — 12 ☃ …and then?")
    stream = TextStream(loaded.backend, ["then?!"])
    shown = "".join(stream.push(token) for token in ids)
    assert shown == "naïve café — 12 ☃ …and "
    assert shown + stream.finish() == "naïve café — 12 ☃ …and then?"


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = Sampler(Sampling(1.0, 1.0, 3))
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(4000)]), minlength=4)
    assert counts / 4000 == pytest.approx(torch.tensor([0.5, 0.3, 0.15, 0.05]), abs=0.03)
    narrowed = Sampler(Sampling(1.0, 0.75, 3))
    assert {narrowed(logits) for _ in range(200)} == {0, 1}
    assert Sampler(GREEDY)(logits) == 0
