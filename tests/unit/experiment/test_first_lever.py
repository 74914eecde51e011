"""`kv.policies: [auto]`: one that the engine has, so that a sanity set needs no settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.declared import load_experiment
from pytest_kvbench.policies.table import POLICIES

URL, OTHER = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
SANITY = Path(__file__).parents[3] / "evals/experiments/sanity.yaml"


@pytest.mark.parametrize(
    ("engine", "policy"),
    [
        ({"name": "local"}, "knorm"),
        ({"name": "llamacpp"}, "q8_0"),
        ({"name": "vllm", "launch": {"command": "serve {kv}"}}, "fp8"),
        ({"name": "llamacpp", "base_url": URL}, "none"),
        ({"name": "openai", "base_url": URL}, "none"),
        ({"name": "openai", "endpoints": {"none": URL, "snapkv@0.2": OTHER}}, "snapkv"),
    ],
)
def test_the_sanity_set_can_be_planned_on_any_engine(
    engine: dict[str, Any], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVBENCH_SANITY_POLICY", raising=False)
    declared = load_experiment(SANITY, inline={"engine": engine})
    assert declared.experiment.kv.policies == (policy,)
    plan.check(declared)
    assert declared.experiment.snapshot()["kv"]["policies"] == [policy]


def test_every_first_lever_is_one() -> None:
    levers = {name: kind.first_lever for name, kind in KINDS.items() if kind.first_lever}
    assert len(levers) == 5
    for name, policy in levers.items():
        assert policy in (POLICIES if name == "local" else KINDS[name].bits)
