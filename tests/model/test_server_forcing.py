"""A reply forced through every arm's cache at once: as kvpress used directly would answer it."""

from __future__ import annotations

import json
import math
import os
import queue
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import DynamicCache

from pytest_kvbench.divergence.forced import from_choices
from pytest_kvbench.divergence.records import Bounds
from pytest_kvbench.policies import own
from pytest_kvbench.policies.table import catalogue, checked, get_policy
from pytest_kvbench.server import forcing, loading, reading
from pytest_kvbench.server.drawing import Sampling
from pytest_kvbench.server.engine import ArmSpec, Done, Engine, Job, Piece
from pytest_kvbench.server.jobs import Force, Forced
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.solo import SoloKV
from pytest_kvbench.server.worker import Worker
from tests.model.conftest import Direct, Server, parts, prompt_parts
from tests.support.every_policy import PARAMS
from tests.support.tiny_model import tiny_model

pytestmark = pytest.mark.model

THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
FULL = {"policy": "none"}
ARMS = [{"policy": name, "budget": 0.4} for name in ("snapkv", "knorm", "keydiff", "adakv")]
CHARS = 500
NEW = 12


def ask(server: Server, index: int, arms: list[dict[str, Any]], **more: Any) -> httpx.Response:
    wanted = {"kv": [FULL, *arms], "force": {"reference": None}, "max_tokens": NEW, **more}
    return server.chat(parts(index, CHARS), **wanted)


def choices(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["choices"]
    return found


def press_of(arm: dict[str, Any]) -> Any:
    import kvpress

    if arm["policy"] == "adakv":
        return kvpress.AdaKVPress(kvpress.SnapKVPress(compression_ratio=1 - arm["budget"]))
    names = {"snapkv": "SnapKVPress", "knorm": "KnormPress", "keydiff": "KeyDiffPress"}
    return getattr(kvpress, names[arm["policy"]])(compression_ratio=1 - arm["budget"])


@torch.inference_mode()
def forced_directly(direct: Direct, press: Any, ids: list[int], reply: list[int]) -> torch.Tensor:
    """Log-probabilities (reply, vocabulary): kvpress's own prefill and one pass over the reply."""
    cache = DynamicCache()
    for layer in direct.model.model.layers:
        layer.self_attn.masked_key_indices = None
    if press is None:
        first = direct.model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
    else:
        with press(direct.model):
            first = direct.model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)
    places = torch.arange(len(ids), len(ids) + len(reply) - 1)[None]
    rest = direct.model(
        torch.tensor([reply[:-1]]), past_key_values=cache, position_ids=places
    ).logits[0]
    return torch.cat([first.logits[0], rest]).log_softmax(-1)


SLOW = [pytest.param(index, marks=pytest.mark.slow) for index in range(2, 10)]


@pytest.mark.parametrize("index", [0, 1, *SLOW])
def test_every_position_is_that_of_kvpress_and_one_pass(
    server: Server, direct: Direct, index: int
) -> None:
    control, *rest = choices(ask(server, index, ARMS))
    reply = control["forced"]["reference"]
    ids = direct.ids(*prompt_parts(index, CHARS))
    full = forced_directly(direct, None, ids, reply)
    for arm, choice in zip([FULL, *ARMS], [control, *rest], strict=True):
        press = None if arm is FULL else press_of(arm)
        logs = forced_directly(direct, press, ids, reply)
        forced = choice["forced"]
        own_logs = logs.gather(-1, torch.tensor(reply)[:, None])[:, 0]
        assert forced["nll"] == pytest.approx((-own_logs).tolist(), abs=1e-4)
        assert forced["top_nll"] == pytest.approx((-logs.max(-1)[0]).tolist(), abs=1e-4)
        kld = torch.nn.functional.kl_div(logs, full, log_target=True, reduction="none").sum(-1)
        assert forced["kld"] == pytest.approx(kld.tolist(), abs=1e-4)
        shared = torch.minimum(logs.exp(), full.exp()).sum(-1)
        assert forced["overlap"] == pytest.approx(shared.tolist(), abs=1e-4)
        assert choice["message"]["content"] == control["message"]["content"]


def test_the_full_cache_asked_again_is_equal_everywhere(server: Server) -> None:
    control, snapkv, again = choices(ask(server, 1, [ARMS[0], FULL]))
    floor = from_choices(control, again)
    assert {floor.bounds(m) for m in ("overlap", "same_top", "prefix")} == {Bounds(1, 1)}
    assert floor.bounds("kld") == Bounds(0, 0)
    assert control["forced"]["nll"] == again["forced"]["nll"]
    moved = from_choices(control, snapkv).bounds("overlap")
    assert moved is not None
    assert moved.high < 0.99


def test_arms_together_say_what_each_says_alone(server: Server) -> None:
    every = choices(ask(server, 2, ARMS))
    reference = every[0]["forced"]["reference"]
    for arm, expected in zip(ARMS, every[1:], strict=True):
        _, found = choices(ask(server, 2, [arm], force={"reference": reference}))
        assert found["kv"] == expected["kv"]
        assert found["message"] == expected["message"]
        for name, values in expected["forced"].items():
            assert found["forced"][name] == pytest.approx(values, abs=1e-4), name


def test_what_acts_while_decoding_acts_as_it_does_there(server: Server) -> None:
    """At every position of its own reply an arm's likeliest token is the next one of it."""
    arm = {"policy": "decoding", "budget": 0.5, "params": {"compression_interval": 4}}
    reply = server.chat(parts(3, CHARS), kv=arm, max_tokens=NEW).json()["choices"][0]
    ids = server.post("/tokenize", {"content": reply["message"]["content"]}).json()["tokens"]
    control, found = choices(ask(server, 3, [arm], force={"reference": ids}))
    assert found["forced"]["top"] == ids
    moments = found["kv"]["while_decoding"], reply["kv"]["while_decoding"]
    assert moments[0]["prompt"] == moments[1]["prompt"]
    assert moments[0]["mean"]["kept_bytes"] < moments[0]["prompt"]["full_bytes"]
    assert control["forced"]["overlap"] == [1.0] * len(ids)


def test_a_reply_has_its_end_token_and_costs_one_pass(server: Server) -> None:
    reply = server.chat(
        "Say hi.", kv=[FULL, ARMS[1]], force={"reference": None}, max_tokens=64
    ).json()
    assert {c["finish_reason"] for c in reply["choices"]} == {"stop"}
    assert {c["completion_tokens"] for c in reply["choices"]} == {
        len(reply["choices"][0]["forced"]["reference"])
    }
    assert reply["timings"]["force_s"] > 0
    plain = server.chat("Say hi.", max_tokens=64).json()
    assert plain["choices"][0]["message"] == reply["choices"][0]["message"]
    assert "forced" not in plain["choices"][0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"force": {"reference": [10**6]}}, "bad_token"),
        ({"force": {"reference": [1] * 9000}}, "context_length_exceeded"),
        ({"kv": [ARMS[0], FULL]}, "invalid_value"),
    ],
)
def test_what_cannot_be_forced_is_refused(
    server: Server, change: dict[str, Any], code: str
) -> None:
    reply = ask(server, 0, ARMS, **change)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == code


@pytest.fixture(scope="module")
def tiny() -> LocalModel:
    return tiny_model()


def spec(name: str, budget: float = 0.5) -> ArmSpec:
    return ArmSpec(*checked(name, PARAMS.get(name, {})), budget)


NONE = ArmSpec(get_policy("none"), {}, 1.0)
IDS = [n * 37 % 251 for n in range(160)]


def forced(
    model: LocalModel, arms: list[ArmSpec], reference: list[int] | None = None
) -> dict[int, Forced | str]:
    """By arm: its figures, or why it has none."""
    engine, events = Engine(model, PrefillCache(0)), list[Any]()
    runs = engine.start(job(IDS, [NONE, *arms], events.append, Force(reference)))
    while runs:
        runs = engine.step(runs)
    assert isinstance(events[-1], Done), events[-1]
    return ends(events)


def job(ids: list[int], arms: list[ArmSpec], emit: Any, force: Force | None) -> Job:
    tokens = len(force.reference) if force and force.reference else 8
    return Job(ids, arms, tokens, Sampling(0.0, 1.0, 0), [], emit, force)


def ends(events: list[Any]) -> dict[int, Forced | str]:
    reports = list(events[0])
    pieces = [event for event in events if isinstance(event, Piece) and event.finish_reason]
    assert len(pieces) == len(reports)
    return {one.index: one.forced or (one.report or reports[one.index]).error for one in pieces}


def decoded(model: LocalModel, arm: ArmSpec) -> list[int]:
    """What an arm says by itself, in tokens."""
    engine = Engine(model, PrefillCache(0))
    runs = engine.start(job(IDS, [arm], lambda event: None, None))
    rows = list(runs)
    while runs:
        runs = engine.step(runs)
    return rows[0].tokens if rows else []


def test_every_policy_is_asked_with_the_cache_that_it_decodes_with(tiny: LocalModel) -> None:
    """At every position of its own reply an arm's likeliest token is the next one of it."""
    names = [name for name, policy in catalogue().items() if not policy.refused]
    found = {}
    for name in names:
        if reply := decoded(tiny, spec(name)):
            figures = forced(tiny, [spec(name)], reply)[1]
            found[name] = isinstance(figures, Forced) and figures.top == reply
    assert set(found.values()) == {True}, found
    assert {"adakv", "decoding", "cam", "key_rerotation", "think", "pyramidkv"} <= set(found)
    assert len(found) > 20


SEVERAL = ("snapkv", "adakv", "decoding", "think", "knorm")


def test_positions_in_pieces_give_what_all_at_once_give(
    tiny: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [spec(name) for name in SEVERAL]
    reference = [n * 7 % 250 for n in range(40)]
    whole = forced(tiny, arms, reference)
    for most, block in ((1, 1), (7 * 6 * 257, 2 * 257)):
        monkeypatch.setattr(forcing, "_MOST_LOGITS", most)
        monkeypatch.setattr(forcing, "_BLOCK", block)
        for index, figures in forced(tiny, arms, reference).items():
            expected = whole[index]
            assert isinstance(figures, Forced)
            assert isinstance(expected, Forced)
            assert figures.top == expected.top
            for name in ("nll", "top_nll", "reference_top_nll", "overlap", "kld"):
                values = getattr(expected, name)
                assert getattr(figures, name) == pytest.approx(values, abs=1e-5), name


def test_the_full_caches_own_reply_is_what_it_decodes(tiny: LocalModel) -> None:
    reply = decoded(tiny, NONE)
    own_reply = forced(tiny, [spec("snapkv")])
    assert own_reply == forced(tiny, [spec("snapkv")], reply)
    control = own_reply[0]
    assert isinstance(control, Forced)
    assert control.reference == control.top == reply
    assert set(control.overlap) == {1.0}


def test_requests_beside_each_other_get_what_each_gets_alone(tiny: LocalModel) -> None:
    arms = [NONE, *map(spec, SEVERAL)]
    jobs = [
        (IDS[:120], Force()),
        (IDS, None),
        (IDS[30:], Force([5, 6, 7, 8])),
        (IDS[10:], Force()),
    ]
    alone = [at_once(tiny, arms, [one])[0] for one in jobs]
    together = at_once(tiny, arms, jobs)
    for one, other in zip(alone, together, strict=True):
        for index, figures in one.items():
            again = other[index]
            if isinstance(figures, Forced):
                assert isinstance(again, Forced)
                assert again.reference == figures.reference
                assert again.overlap == pytest.approx(figures.overlap, abs=1e-5)


def at_once(
    model: LocalModel, arms: list[ArmSpec], jobs: list[tuple[list[int], Force | None]]
) -> list[dict[int, Any]]:
    worker = Worker(Engine(model, PrefillCache(0)), THREADS, shared_rows=32)
    ended: queue.Queue[int] = queue.Queue()
    events: list[list[Any]] = [[] for _ in jobs]

    def emit_to(index: int) -> Any:
        def emit(event: Any) -> None:
            events[index].append(event)
            if isinstance(event, Done | Exception):
                ended.put(index)

        return emit

    for index, (ids, force) in enumerate(jobs):
        worker.submit(job(ids, arms, emit_to(index), force))
    worker.start()
    for _ in jobs:
        ended.get(timeout=600)
    assert not [e for one in events for e in one if isinstance(e, Exception)]
    return [ends(one) for one in events]


def test_a_job_that_nobody_waits_for_is_dropped_between_positions(tiny: LocalModel) -> None:
    engine, events = Engine(tiny, PrefillCache(0)), list[Any]()
    begun = job(IDS, [NONE, spec("snapkv")], events.append, Force([1, 2, 3]))
    runs = engine.start(begun)
    begun.cancelled = True
    assert engine.step(runs) == []
    assert not [event for event in events if isinstance(event, Piece)]


CLASS = """
from kvpress import BasePress

class Raising(BasePress):
    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        raise RuntimeError("not today")

class NoNumbers(BasePress):
    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        return keys, values * float("nan")
"""


def test_an_arm_that_fails_costs_itself_alone(
    tiny: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(CLASS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own, "read", lambda arguments: reading.own(arguments[0]))
    names = ["./mine.py:Raising", "./mine.py:NoNumbers"]
    model = loading.with_classes(tiny, names)
    arms = [*map(spec, names), spec("decoding"), spec("snapkv")]
    steps, real = iter(range(100)), SoloKV.forward

    def failing(self: SoloKV, *given: Any) -> torch.Tensor:
        if next(steps) == 4:
            raise RuntimeError("no more")
        return real(self, *given)

    monkeypatch.setattr(SoloKV, "forward", failing)
    found = forced(model, arms, [5, 6, 7, 8, 9, 10])
    _, raising, no_numbers, decoding, snapkv = (found[index] for index in range(5))
    assert "not today" in str(raising)
    assert "no numbers" in str(no_numbers)
    assert "no more" in str(decoding)
    assert isinstance(snapkv, Forced)
    assert len(snapkv.kld) == 6
    json.dumps(vars(snapkv), allow_nan=False)
    assert all(map(math.isfinite, snapkv.kld))
