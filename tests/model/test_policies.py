"""Policies on the real model: as kvpress answers, apart from each other, and classes of users."""

from __future__ import annotations

import json
import os
import queue
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_kvbench.errors import UsageError
from pytest_kvbench.own import loading as own_loading
from pytest_kvbench.policies import catalogue as catalogue_module
from pytest_kvbench.policies import own
from pytest_kvbench.policies.table import catalogue, checked, get_policy
from pytest_kvbench.server import intake, loading, reading
from pytest_kvbench.server.drawing import Sampling
from pytest_kvbench.server.engine import ArmReport, ArmSpec, Done, Engine, Job, Piece
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.protocol import ApiError, KvArm
from pytest_kvbench.server.reuse import PrefillCache
from pytest_kvbench.server.worker import Worker
from tests.support import pages
from tests.support.every_policy import PARAMS, Bench
from tests.support.tiny_model import tiny_model

pytestmark = pytest.mark.model

THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
SERVED = [
    name
    for name, one in catalogue().items()
    if name != "none" and not one.refused and (one.serving == "quantised" or not one.trained)
]
"""All that may run here: which of them keep something from one token to the next is not asked."""
TINY: Mapping[str, Mapping[str, Any]] = {
    **PARAMS,
    "dms": {"threshold": -0.3, "sliding_window_size": 32, "budget": 0.5},
    "per_layer": {"compression_ratios": [0.4, 0.6, 0.5]},
    "simlayerkv": {"lazy_threshold": 0.0, "n_recent": 64, "budget": 0.5},
}
"""By which each does something to a prompt of the tiny model's."""


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.real(THREADS)


@pytest.mark.parametrize(
    "name", ["adakv", "observed_attention", "key_rerotation", "ratio_decoding", "think"]
)
def test_answers_are_those_of_kvpress(bench: Bench, name: str) -> None:
    seen = bench.see(name, 1)
    assert (seen.equal, seen.of, seen.why) == (1, 1, "")
    assert seen.simulated == get_policy(name).masks


def test_a_sweep_of_turned_keys_answers_as_kvpress(bench: Bench) -> None:
    """The whole prompt compressed, as in most experiments: no question hides where it goes on."""
    ids = [token for part in bench.ids(0) for token in part]
    arms = [bench.arm(*checked(name, {}), 0.7, None) for name in ("key_rerotation", "snapkv")]
    swept = [text for text, _ in bench.ours(arms, ids, 6)]
    assert swept == [bench.stepwise(arm, ids, [], 6) for arm in arms]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in catalogue() if name != "none"])
def test_every_policy_answers_as_kvpress_or_says_what_it_lacks(bench: Bench, name: str) -> None:
    if get_policy(name).refused:
        pytest.skip(get_policy(name).refused)
    seen = bench.see(name, 5)
    assert seen.equal == seen.of
    assert bool(seen.why) <= bool(get_policy(name).trained), seen.why


def picky(model: LocalModel) -> LocalModel:
    """The model, for which it matters what is kept: else all is attended to alike."""
    for layer in model.attention_layers:
        layer.q_proj.weight.data *= 60
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """Under a name by which its tokenizer is found: kvzip and kvgrad look for it."""
    model, folder = picky(tiny_model()), tmp_path_factory.mktemp("tiny")
    model.tokenizer.save_pretrained(folder)
    model.network.config._name_or_path = str(folder)
    return model


TURNED = (
    ("key_rerotation", {}),
    ("key_rerotation", {"press": "knorm"}),
    ("key_rerotation", {"press": {"policy": "streaming_llm", "n_sink": 2}}),
    ("composed", {"presses": ["key_rerotation", "knorm"]}),
    ("snapkv", {}),
    ("prefill_decoding", {"prefilling_press": "key_rerotation", **PARAMS["prefill_decoding"]}),
)


def test_new_tokens_go_on_where_keys_were_turned_to() -> None:
    """At every budget, beside others and alone, with a question and without: as kvpress does."""
    served, network = picky(tiny_model()), picky(tiny_model(attention="sdpa")).network
    beside = Bench(served, network, served.tokenizer)
    ids = ids_of(4)
    context, question = ids[:150], ids[150:]
    for seen in (len(context), None):
        wanted = [(TURNED[0], 0.8), *((one, 0.6) for one in TURNED)]
        arms = [beside.arm(*checked(*one), budget, seen) for one, budget in wanted]
        swept = [text for text, _ in beside.ours(arms, ids, 6)]
        assert swept == [beside.ours([arm], ids, 6)[0][0] for arm in arms]
        theirs = [
            beside.theirs(arm, context, question, 6)[0]
            if seen
            else beside.stepwise(arm, ids, [], 6)
            for arm in arms
            if seen or arm.policy.serving != "decoding"
        ]
        assert theirs == swept[: len(theirs)]


def ids_of(index: int) -> list[int]:
    return [(n * 37 + index * 11) % 251 for n in range(160 + 7 * index)]


def answers(engine: Engine, jobs: list[tuple[list[int], list[ArmSpec]]]) -> list[Any]:
    """Texts and reports of jobs that decode beside each other."""
    worker = Worker(engine, THREADS, shared_rows=32)
    ended: queue.Queue[int] = queue.Queue()
    events: list[list[Any]] = [[] for _ in jobs]

    def emit_to(index: int) -> Any:
        def emit(event: Any) -> None:
            events[index].append(event)
            if isinstance(event, Done | Exception):
                ended.put(index)

        return emit

    for index, (ids, arms) in enumerate(jobs):
        sampling = Sampling(0.0, 1.0, 0)
        worker.submit(Job(ids, arms, 8, sampling, [], emit_to(index), created=time.perf_counter()))
    worker.start()
    for _ in jobs:
        ended.get(timeout=600)
    return [_collected(one, len(arms)) for one, (_, arms) in zip(events, jobs, strict=True)]


def _collected(events: list[Any], arms: int) -> tuple[list[str], list[ArmReport]]:
    assert not [event for event in events if isinstance(event, Exception)], events
    texts, reports = [""] * arms, list(events[0])
    for piece in events:
        if isinstance(piece, Piece):
            texts[piece.index] += piece.text
            reports[piece.index] = piece.report or reports[piece.index]
    return texts, reports


def spec(name: str, budget: float = 0.5) -> ArmSpec:
    policy, params = checked(name, TINY.get(name, {}))
    return ArmSpec(policy, params, policy.fixed_budget(params) or budget)


def test_two_requests_never_meet(tiny: LocalModel) -> None:
    engine = Engine(tiny, PrefillCache(0))
    arms = [spec(name) for name in SERVED]
    prompts = [ids_of(1), ids_of(2)]
    alone = [answers(engine, [(ids, arms)])[0] for ids in prompts]
    together = answers(engine, [(ids, arms) for ids in prompts])
    backwards = answers(engine, [(ids, arms) for ids in reversed(prompts)])
    assert together == alone
    assert backwards == alone[::-1]
    reports = dict(zip(SERVED, alone[0][1], strict=True))
    idle = [name for name, one in reports.items() if one.error or one.achieved > 0.7]
    assert all(get_policy(name).serving == "quantised" for name in idle), idle
    assert reports["adakv"].simulated
    assert reports["adakv"].kept_bytes == reports["adakv"].full_bytes
    moments = reports["decoding"].while_decoding
    assert moments is not None
    assert moments["prompt"].kept_bytes == moments["prompt"].full_bytes
    assert (
        moments["mean"].kept_bytes
        < moments["peak"].kept_bytes
        <= moments["prompt"].full_bytes * 1.1
    )
    assert 0.4 < reports["decoding"].achieved < 0.6
    layers = tiny.attention_layers
    assert all(layer.masked_key_indices is None for layer in layers)
    assert not any(layer._forward_hooks for layer in layers)


CLASS = """
import torch
from dataclasses import dataclass
from kvpress import BasePress, ScorerPress
from helper import POWER

@dataclass
class Fine(ScorerPress):
    power: float = 1.0
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return values.norm(dim=-1) ** (self.power * POWER)

class Raising(ScorerPress):
    def score(self, *args):
        raise RuntimeError("not today")

class Torn(BasePress):
    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        hidden_states.zero_(); keys.zero_()
        return keys[:, :, :9], values[:, :, :7]

class NoPress:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(CLASS)
    (tmp_path / "helper.py").write_text("POWER = 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes are read here: a process of its own loads torch again, which takes seconds."""
    monkeypatch.setattr(own, "read", lambda arguments: reading.own(arguments[0]))


@pytest.mark.usefixtures("at_once")
def test_a_class_of_a_users_costs_its_own_cells_alone(tiny: LocalModel, folder: Path) -> None:
    names = [f"./mine.py:{name}" for name in ("Fine", "Raising", "Torn")]
    engine = Engine(loading.with_classes(tiny, names), PrefillCache(0))
    ids = ids_of(0)
    [(texts, reports)] = answers(engine, [(ids, [spec("none", 1.0), *map(spec, names)])])
    [(alone, _)] = answers(engine, [(ids, [spec("none", 1.0)])])
    assert texts[0] == alone[0]
    assert reports[1].achieved == pytest.approx(0.5, abs=0.02)
    assert "not today" in reports[2].error
    assert "9 keys and 7 values" in reports[3].error
    assert texts[2:] == ["", ""]


@pytest.mark.usefixtures("at_once")
def test_the_class_of_the_page_is_a_policy(tiny: LocalModel, folder: Path) -> None:
    code = pages.block("python", "class MyPress")
    assert len(code.splitlines()) < 20
    (folder / "mypress.py").write_text(code)
    name = "./mypress.py:MyPress"
    model = loading.with_classes(tiny, [name])
    arm = ArmSpec(*checked(name, {"power": 2.0}), 0.5)
    [(_, (report,))] = answers(Engine(model, PrefillCache(0)), [(ids_of(0), [arm])])
    assert (report.error, report.achieved) == ("", pytest.approx(0.5, abs=0.02))


@pytest.mark.usefixtures("at_once")
def test_classes_of_one_name_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, power in (("pack/one", 3.0), ("pack/two", 4.0), ("elsewhere/mine", 5.0)):
        (folder / where).parent.mkdir(exist_ok=True)
        code = CLASS.replace("power: float = 1.0", f"power: float = {power}")
        (folder / f"{where}.py").write_text(code)
    (folder / "pack/__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    names = ("./mine.py:Fine", "pack.one:Fine", "pack.two:Fine")
    found = [get_policy(name).params["power"].default for name in names]
    monkeypatch.chdir(folder / "elsewhere")
    assert [*found, get_policy(names[0]).params["power"].default] == [1.0, 3.0, 4.0, 5.0]


def test_an_installed_package_is_part_of_its_class(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bought").mkdir()
    (folder / "bought/__init__.py").touch()
    (folder / "bought/press.py").write_text(CLASS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(own_loading.sysconfig, "get_path", lambda _name: str(folder))
    files = reading.own("bought.press:Fine")["files"]
    assert [Path(file).name for file in files] == ["__init__.py", "press.py"]


def test_what_is_pinned_is_what_kvpress_says() -> None:
    """Of another version, `KVBENCH_PIN=1` writes it."""
    file = Path(catalogue_module.__file__).with_name("kvpress.json")
    presses = [{n: v for n, v in entry.items() if n != "note"} for entry in reading.every()]
    found = {"presses": presses, "source": catalogue_module.source_digest()}
    if os.environ.get("KVBENCH_PIN"):
        file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(found))


def test_identity_follows_the_files_of_a_class(folder: Path) -> None:
    name = "./mine.py:Fine"
    before = own.CLASSES.digest(name)
    assert own.CLASSES.digest(name) == before
    (folder / "helper.py").write_text("POWER = 22.0\n")
    assert own.CLASSES.digest(name) != before
    assert get_policy(name).params["power"].default == 1.0


@pytest.mark.usefixtures("at_once")
def test_a_server_takes_classes_from_its_command_line_alone(tiny: LocalModel, folder: Path) -> None:
    (folder / "trap.py").write_text(f"open({str(folder / 'trapped')!r}, 'w')\n" + CLASS)
    arm = KvArm(policy="adakv", budget=0.5, params={"press": {"policy": "./trap.py:Fine"}})
    with pytest.raises(ApiError, match="not started with"):
        intake._check_classes(tiny, arm)
    assert not (folder / "trapped").exists()
    model = loading.with_classes(tiny, ["mine=./mine.py:Fine"])
    intake._check_classes(model, KvArm(policy="mine", budget=0.5))
    stale = KvArm(policy="mine", budget=0.5, sources={"mine": "another"})
    with pytest.raises(ApiError, match="has changed"):
        intake._check_classes(model, stale)


@pytest.mark.usefixtures("at_once")
def test_a_class_that_is_no_press_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no press"):
        own.CLASSES.entry("./mine.py:NoPress")
    with pytest.raises(UsageError, match="cannot be imported"):
        own.CLASSES.entry("./mine.py:Missing")
    odd = "\n\nclass Odd(Fine):\n    kvbench_serving = 'twice'\n"
    (folder / "mine.py").write_text((folder / "mine.py").read_text() + odd)
    with pytest.raises(UsageError, match=r"kvbench_serving is 'twice'\.\nValid: shared, own, dec"):
        own.CLASSES.entry("./mine.py:Odd")


def test_random_numbers_are_an_arms_own(tiny: LocalModel) -> None:
    engine, ids = Engine(tiny, PrefillCache(0)), ids_of(3)
    state = torch.get_rng_state()
    [(both, _)] = answers(engine, [(ids, [spec("leverage", 0.3), spec("leverage", 0.6)])])
    [(one, _)] = answers(engine, [(ids, [spec("leverage", 0.6)])])
    assert both[1] == one[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_trained_parts_that_are_not_here_are_named(bench: Bench) -> None:
    seen = bench.see("kvzap", 1)
    assert "what it needs is not here" in seen.why
    assert "hf download nvidia/KVzap" in seen.why
