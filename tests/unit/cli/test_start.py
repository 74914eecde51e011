"""`kvbench init`: what it writes runs as it stands, for whoever is found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from starlette.responses import JSONResponse
from starlette.routing import Route

from pytest_kvbench import extras
from pytest_kvbench.cli.stages import main
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.ops import starting
from pytest_kvbench.pipeline import foresee
from tests.support.mock_server import MockServer
from tests.support.serving import Serving

WORKFLOW = Path(".github/workflows/kvbench.yml")


@dataclass
class Models(Serving):
    """A server that lists models, and does nothing else."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def routes(self) -> list[Route]:
        return [Route("/v1/models", lambda _: JSONResponse({"data": self.entries}))]


@pytest.fixture
def models() -> Iterator[Models]:
    with Models(entries=[{"id": "m", "owned_by": "vllm"}]) as server:
        yield server


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(starting, "PORTS", ())


def init(*args: str) -> Result:
    return CliRunner().invoke(main, ["init", *args], catch_exceptions=False)


def written() -> dict[str, Any]:
    declared = load_experiment(Path("kvbench.yaml")).experiment
    assert not list(foresee.shortcomings(declared))  # it can decide
    assert yaml.safe_load(WORKFLOW.read_text())["jobs"]["quality"]["steps"]
    compile(Path("test_kvbench.py").read_text(), "test_kvbench.py", "exec")
    return declared.snapshot()


@pytest.mark.parametrize(
    ("owner", "engine", "policy"),
    [
        ("vllm", "vllm", "fp8"),
        ("sglang", "sglang", "fp8_e5m2"),
        ("llamacpp", "llamacpp", "q8_0"),
        ("library", "ollama", "q8_0"),
        ("somebody", "openai", "treated"),
    ],
)
def test_a_pair_is_compared_by_what_its_kind_has(
    models: Models, owner: str, engine: str, policy: str
) -> None:
    models.entries = [{"id": 'm "1"', "owned_by": owner}]
    with Models(entries=models.entries) as other:
        done = init(models.url, other.url, "--budget", "0.25")
        assert done.exit_code == 0, done.output
        kv, asked = written()["kv"], written()["engine"]
    assert (asked["name"], asked["model"], kv["policies"]) == (engine, 'm "1"', [policy])
    assert {n: e["base_url"] for n, e in asked["endpoints"].items()} == {
        "none": models.url,
        policy: other.url,
    }
    budget = asked["endpoints"][policy]["budget"]
    assert budget == (0.25 if engine == "openai" else None)


def test_one_server_alone_is_asked_for_the_full_cache(models: Models) -> None:
    assert init(models.url).exit_code == 0
    assert written()["kv"]["policies"] == ["none"]
    assert "fp8: " in Path("kvbench.yaml").read_text()


def test_ours_has_every_policy_by_itself(mock: MockServer) -> None:
    assert init(mock.base_url).exit_code == 0
    asked = written()
    assert (asked["engine"]["name"], asked["engine"]["base_url"]) == ("local", mock.base_url)
    assert asked["kv"]["policies"] == ["snapkv"]


def test_servers_of_this_machine_are_found(
    models: Models, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Models(entries=models.entries) as other:
        monkeypatch.setattr(starting, "PORTS", (models.port, mock.port, other.port))
        done = init()
        assert done.output.startswith(f"found: vllm, m: {models.url} and {other.url}\n")


def test_the_embedded_model_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "found: the embedded model smollm2-135m" in init().output
    assert written()["engine"]["name"] == "local"
    assert "pytest-kvbench[local]" in WORKFLOW.read_text()
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    nothing = init("--to", "other")
    assert nothing.exit_code == 4
    assert "name a server: kvbench init http://HOST:8000/v1" in nothing.output
    assert not Path("other").exists()


def test_nothing_is_overwritten(models: Models) -> None:
    Path("kvbench.yaml").write_text("mine\n")
    done = init(models.url)
    assert "kvbench.yaml: is there, left as it is\ntest_kvbench.py\n" in done.output
    assert Path("kvbench.yaml").read_text() == "mine\n"


def test_what_cannot_be_a_pair_is_refused(models: Models) -> None:
    assert "HTTP 404" in init(f"{models.url}/elsewhere").output
    with Models(entries=[{"id": "another"}]) as other:
        assert "name one model that both serve" in init(models.url, other.url).output
    models.entries = []
    assert "lists no model" in init(models.url).output
    assert init("http://a", "http://a").exit_code == 4
    assert not Path("kvbench.yaml").exists()


def test_every_command_is_in_a_section_of_the_help() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    assert re.findall(r"^(\w.*):$", shown, re.M)[1:] == [
        "Begin",
        "Measure",
        "Judge what is there",
        "Learn from many runs",
        "Share",
        "Keep and tidy up",
    ]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("odd", ["m-${KVBENCH_API_KEY}", "m\nengine: {}", "m\u202e", "m" * 501])
def test_a_model_that_a_stranger_named_oddly_is_not_written(models: Models, odd: str) -> None:
    models.entries = [{"id": odd}]
    refused = init(models.url)
    assert refused.exit_code == 10
    assert "its model's name is odd" in refused.output
    assert "\u202e" not in refused.output
    assert not Path("kvbench.yaml").exists()
    assert init(models.url, "--model", "m").exit_code == 0
