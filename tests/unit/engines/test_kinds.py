"""An engine's facts are one `Kind`, asked for by its attributes and never by its name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

import pytest_kvbench
from pytest_kvbench.engines import arms
from pytest_kvbench.engines.kinds import KINDS, kind_of
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.policies.kv_types import bits

PACKAGE = Path(pytest_kvbench.__file__).parent
OF_AN_EXECUTOR = "executor"


def test_every_engine_has_a_kind() -> None:
    assert {*KINDS} == {*get_args(EngineSettings.model_fields["name"].annotation)}


def test_nobody_but_the_declaration_asks_for_an_engines_name() -> None:
    asked = []
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0]
        if room == "experiment":  # layers below the kinds
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            names = {one.value for one in compared if isinstance(one, ast.Constant)} & {*KINDS}
            if names and OF_AN_EXECUTOR not in ast.unparse(node):
                asked.append(f"{file.name}: {ast.unparse(node)}")
    assert asked == []


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_a_kind_takes_has_a_size(name: str) -> None:
    kind = KINDS[name]
    assert kind.types[0] == kind.control
    assert all(bits(kv_type) == size for kv_type, size in kind.bits.items())
    assert bits(kind.control) == 16
    assert bits("auto", "float32") == 32
    assert bits("what") is None


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_embedded_server_alone_has_all_arms(name: str) -> None:
    engine = EngineSettings.model_validate({"name": name, "model": "m"})
    kind = kind_of(engine)
    assert kind.is_embedded is engine.shares_prefill is (name == "local")
    kv = KV.model_validate({"policies": ["knorm"], "budgets": [1.0, 0.5]})
    expected = "none" if kind.is_embedded else "knorm@0.5"
    assert arms.server_name(engine, kv, "knorm", 0.5) == expected
    assert arms.server_name(engine, kv, "none", 1.0) == "none"
