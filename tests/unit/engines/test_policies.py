"""What an arm of the embedded engine is, what proves it, and a reply in which one arm failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kvbench.engines import arms, proof_of
from pytest_kvbench.engines.completion import fault_in, read_arms
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.pipeline import plan
from pytest_kvbench.records import Answer, Arm, Failure, Sampling, Telemetry


def arm(policy: str, nominal: float, /, **params: Any) -> Arm:
    return Arm(
        engine="local",
        model="m",
        fingerprint="f",
        policy=policy,
        budget=nominal,
        sampling=Sampling(),
        template_version="1",
        variant="",
        question_aware=True,
        params=params,
    )


def kept(achieved: float, held: float | None = None, tokens: int = 400) -> Telemetry:
    held = achieved if held is None else held
    return Telemetry(
        latency_s=1.0,
        achieved=achieved,
        kept_bytes=int(held * 1_000_000),
        full_bytes=1_000_000,
        prompt_tokens=tokens,
    )


@pytest.mark.parametrize(
    ("one", "telemetry", "proof"),
    [
        (arm("snapkv", 0.3), kept(0.3), "proven"),
        (arm("adakv", 0.3), kept(0.3, held=1.0), "simulated"),
        (arm("adakv", 0.3), kept(1.0, held=1.0), "not-applied"),
        (arm("chunkkv", 0.3), kept(0.27), "proven"),
        (arm("snapkv", 0.3), kept(0.27), "not-applied"),
        (arm("decoding", 0.3, compression_interval=40), kept(0.38), "proven"),
        (arm("decoding", 0.3, compression_interval=40), kept(0.45), "not-applied"),
        (arm("decoding", 0.9, compression_interval=512), kept(1.0), "not-applied"),
        (arm("dms", 0.5, threshold=1.0, budget=0.5), kept(0.8, held=1.0), "simulated"),
        (arm("dms", 0.5, threshold=1.0, budget=0.5), kept(1.0, held=1.0), "not-applied"),
        (arm("mine", 0.5, policy="adakv"), kept(0.5, held=1.0), "simulated"),
        (arm("gone", 0.5), kept(0.5), "proven"),
        (arm("none", 1.0), kept(1.0), "proven"),
    ],
)
def test_the_proof_is_in_the_bytes(one: Arm, telemetry: Telemetry, proof: str) -> None:
    assert proof_of(one, telemetry) == proof


def test_one_arm_without_an_answer_leaves_the_others_theirs() -> None:
    why = "policy kvzap: what it needs is not here: OSError: no."
    good = {"message": {"content": "71"}, "finish_reason": "stop", "kv": {"achieved": 1.0}}
    bad = {"message": {"content": ""}, "finish_reason": "error", "kv": {"error": why}}
    reply = {"choices": [{**bad, "index": 0}, {**good, "index": 1}]}
    assert fault_in(reply) is None
    lost, answer = read_arms(["a", "b"], reply, 1.0)
    assert lost == Failure("a", "ENGINE_ERROR", why)
    assert isinstance(answer, Answer)


def declared(tmp_path: Path, **kv: Any) -> Any:
    file = tmp_path / "e.yaml"
    file.write_text("group: g\ntasks: [niah/single]\n")
    return load_experiment(file, inline={"kv": kv})


def test_a_name_of_ones_own_carries_its_recipe(tmp_path: Path) -> None:
    named = {"ada_ea": {"policy": "adakv", "press": "expected_attention"}}
    found = declared(tmp_path, policies=["ada_ea", "knorm"], budgets=[0.5], named=named)
    plan.check(found)
    experiment = found.experiment
    cells = [cell for cell in plan.cells(experiment) if cell.policy == "ada_ea"]
    assert "ada_ea-0.50" in cells[0].item_id
    made = plan.arm_of(experiment, cells[0], "1", "f")
    assert made.params == {"policy": "adakv", "press": "expected_attention"}
    plain = replace(cells[0], policy="knorm")
    assert plan.arm_of(experiment, plain, "1", "f").params == {}
    assert arms.budgets(experiment.engine, experiment.kv, "ada_ea") == (0.5,)
    assert kind_of(experiment.engine).fixed is not None


def test_policies_of_fixed_ratio_make_one_cell(tmp_path: Path) -> None:
    kv = declared(tmp_path, policies=["hqq_int4"], budgets=[1.0, 0.5, 0.2]).experiment
    assert arms.budgets(kv.engine, kv.kv, "hqq_int4") == (0.15625,)


@pytest.mark.parametrize(
    ("kv", "message"),
    [
        ({"policies": ["x"], "named": {"x": {"press": "knorm"}}}, "names no policy"),
        ({"policies": ["adakv"], "named": {"adakv": {"policy": "knorm"}}}, "the name is taken"),
        ({"policies": ["x"], "named": {"x": {"policy": "adakv", "press": "no"}}}, "'no'"),
        ({"policies": ["adakv"], "params": {"adakv": {"alpha_safeguard": "x"}}}, "alpha_safeguard"),
    ],
)
def test_what_is_wrong_with_a_composition(tmp_path: Path, kv: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        plan.check(declared(tmp_path, **kv))
