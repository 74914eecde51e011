"""A control that answers nothing, asked in batches: no surface says more of its treatments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.frames import load_group
from tests.conftest import WORDS
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

EXAMPLES = 40  # enough to hold or break, if anything counted
USELESS = "40 of 40 replies of the full cache are useless (40 EMPTY_OUTPUT)"


def kvbench(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), catch_exceptions=False)


@pytest.fixture(scope="module", params=["gate", "measure"])
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The folder of a group in batches: its full cache is silent, its treatments are right."""
    folder = tmp_path_factory.mktemp(request.param)
    mock = MockServer(wrong="", accuracy=lambda policy, budget: float(policy != "none"))
    rows = [{"question": f"Say {w}", "context": f"text {w}", "answers": [w]} for w in WORDS]
    with (
        BatchServer(reply=mock.completion, weights="9f" * 32) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        experiment: dict[str, Any] = {
            "group": "g",
            "tasks": ["jsonl:words.jsonl"],
            "bins": {"n": 1, "per_bin": EXAMPLES},
            "kv": {"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.2]},
            "engine": {
                "name": "local",
                "model": "mock",
                "base_url": server.base_url,
                "mode": "batch",
            },
            "tokenizer": "approximate",
            "gate": {"mode": request.param},
        }
        Path("exp.yaml").write_text(json.dumps(experiment))
        assert kvbench("run", "exp.yaml").exit_code == 0  # nobody knows yet
        done = kvbench("wait", "g", "--every", "0.01", "--then", "report")
        assert (done.exit_code, USELESS in done.stderr) == (1, True)
        yield folder


@pytest.fixture(autouse=True)
def here(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(group)


@pytest.mark.parametrize("command", ["run", "all"])
def test_a_run_ends_with_status_1_and_says_why(command: str) -> None:
    done = kvbench(command, "exp.yaml")
    assert (done.exit_code, USELESS in done.stderr) == (1, True)


def test_no_cell_is_measured_and_each_says_why() -> None:
    for arguments in (["analyse", "g"], ["analyse", "g", "--dry-run"]):
        assert f"not measured: {USELESS[:50]}" in kvbench(*arguments).stdout
    cells = json.loads(Path("reports/g/summary.json").read_text())["cells"]
    treated = [cell for cell in cells if cell["policy"] != "none"]
    assert len(treated) == 4
    for cell in treated:
        words = {cell[name] for name in ("verdict", "verdict_holm", "verdict_item")}
        assert (words, cell["reason"].startswith(USELESS)) == ({"not-measured"}, True)
    report = Path("reports/g/report.md").read_text()
    assert f"`snapkv` was not measured: {USELESS}" in report


def test_nothing_is_best_and_nothing_regresses() -> None:
    assert "none shown" in kvbench("best").stdout
    assert kvbench("save", "base", "g").exit_code == 0
    compared = kvbench("compare", "g", "g", "--json")
    assert (compared.exit_code, compared.stdout) == (10, "")
    assert USELESS in compared.stderr


def test_no_effect_is_known() -> None:
    assert "snapkv" not in kvbench("effects").stdout
    assert "0.5" not in kvbench("effects").stdout
    assert kvbench("insights", "--to", "insights.md").exit_code == 0
    insights = Path("insights.md").read_text()
    assert "none shown to hold" in insights
    for claim in ("smallest budget with a loss", "Treated minus control", "Effect of each dial"):
        assert claim not in insights


def test_exports_carry_the_verdict() -> None:
    assert kvbench("export", "g", "--csv", "csv", "--artifacts", "arms").exit_code == 0
    frames = [pd.read_csv("csv/cells.csv"), load_group("reports/g").cells]
    for cells in frames:
        treated = cells[cells["policy"] != "none"]
        assert set(treated["verdict_holm"]) == {"not-measured"}
        assert treated["reason"].str.startswith(USELESS).all()
    for file in Path("arms").glob("targets/*/run_*/analysis.json"):
        for cell in json.loads(file.read_text())["cells"]:
            assert cell["verdict_holm"] in (None, "not-measured")
