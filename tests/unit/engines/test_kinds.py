"""An engine's facts are one `Kind`, asked for by its attributes and never by its name."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_kvbench
from pytest_kvbench.engines import arms
from pytest_kvbench.engines.kinds import KINDS, Kind, arms_per_request, kind_of
from pytest_kvbench.experiment.engine import ENGINES, EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.policies.kv_types import bits
from pytest_kvbench.records import Answer, Arm, Prompt, Request, Sampling
from pytest_kvbench.server import __main__ as server

PACKAGE = Path(pytest_kvbench.__file__).parent
OF_AN_EXECUTOR = "executor"


def test_every_engine_has_a_kind() -> None:
    assert (*KINDS,) == ENGINES


def test_nobody_asks_for_an_engines_name() -> None:
    asked = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            compared = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            names = {one.value for one in compared if isinstance(one, ast.Constant)} & {*KINDS}
            if names and OF_AN_EXECUTOR not in ast.unparse(node):
                asked.append(f"{file.name}: {ast.unparse(node)}")
    assert asked == []


def test_a_kind_is_all_its_attributes_and_nobody_writes_or_reads_beside_it() -> None:
    attributes = {field.name for field in dataclasses.fields(Kind)}
    assert {"body", "read", "fingerprint", "start", "size", "check_policy"} <= attributes
    own = {"one_arm", "read_one", "read_arms", "is_embedded"}
    used = [
        f"{file.name}: {node.attr}"
        for file in PACKAGE.rglob("*.py")
        if file.parent.name != "kinds"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in own
    ]
    assert used == []


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_a_kind_takes_has_a_size(name: str) -> None:
    kind = KINDS[name]
    assert kind.types[0] == kind.control
    assert all(bits(kv_type) == size for kv_type, size in kind.bits.items())
    assert bits(kind.control) == 16
    assert bits("auto", "float32") == 32
    assert bits("what") is None


def engine_of(name: str, **keys: Any) -> EngineSettings:
    return EngineSettings.model_validate({"name": name, "model": "m", **keys})


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_embedded_server_alone_has_all_arms(name: str) -> None:
    engine, is_embedded = engine_of(name), name == "local"
    assert kind_of(engine).one_server is (arms_per_request(engine) > 1) is is_embedded
    assert arms_per_request(engine_of(name, sweep=False)) == 1
    kv = KV.model_validate({"policies": ["knorm"], "budgets": [1.0, 0.5]})
    expected = "none" if is_embedded else "knorm@0.5"
    assert arms.server_name(engine, kv, "knorm", 0.5) == expected
    assert arms.server_name(engine, kv, "none", 1.0) == "none"


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_what_a_kind_writes_its_reader_reads(name: str, api: str) -> None:
    """Whoever asks, live or in a batch, does both through the kind."""
    kind, engine = KINDS[name], engine_of(name, api=api)
    some = [
        Request(
            arm=Arm("e", "m", "f", policy, budget, Sampling(), "t"),
            task="t",
            bin=0,
            example_id="x",
            replicate=0,
            prompt=Prompt("a", "b", 4, chat=api == "chat"),
        )
        for policy, budget in (("none", 1.0), ("knorm", 0.5))
    ][: kind.arms_per_request]
    path, body = kind.request_body(engine, some)
    assert path == ("/chat/completions" if api == "chat" else "/completions")
    assert {*kind.extras} <= {*body}
    choices = [{"index": i, "text": f"{i}", "finish_reason": "stop"} for i in range(len(some))]
    outcomes = kind.read([one.key for one in some], {"choices": choices}, None)
    assert [one.key for one in outcomes] == [one.key for one in some]
    assert [one.text for one in outcomes if isinstance(one, Answer)] == list("01"[: len(some)])


def test_the_embedded_servers_command_is_one_that_it_takes() -> None:
    start = KINDS["local"].start
    assert start is not None
    engine = engine_of("local", dtype="bfloat16")
    python, _, program, *options = start.command(engine, ("", ""), 7, Path("a.json"), 2)
    assert (python, program) == (sys.executable, "pytest_kvbench.server")
    taken = vars(server._parser("server").parse_args(options))
    expected = {"model": "m", "dtype": "bfloat16", "port": 0, "watch_pid": 7, "threads": 2}
    assert taken.items() >= {**expected, "address_file": Path("a.json")}.items()
