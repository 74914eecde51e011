"""`kvbench`: the stages without pytest, against a scripted server."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from pytest_kvbench.cli.root import Root
from pytest_kvbench.cli.stages import main
from pytest_kvbench.tasks import together
from tests.conftest import WORDS
from tests.support.mock_server import MockServer

Kvbench = Callable[..., Result]


@pytest.fixture
def kvbench(tmp_path: Path, mock: MockServer, monkeypatch: pytest.MonkeyPatch) -> Kvbench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KVBENCH_DIR", raising=False)
    rows = [
        {"question": f"Say {word}", "context": f"text{n} " * 30, "answers": [word]}
        for n, word in enumerate(WORDS)
    ]
    Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("exp.yaml").write_text(
        f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 1, per_bin: 40}}
kv: {{policies: [snapkv], budgets: [1.0, 0.5, 0.2]}}
engine: {{model: mock, base_url: "{mock.base_url}"}}
tokenizer: approximate
"""
    )
    return lambda *args: CliRunner().invoke(main, list(args), catch_exceptions=False)


def test_all_stages_in_one(kvbench: Kvbench, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 1.0 if budget >= 0.5 else 0.2
    result = kvbench("all", "exp.yaml")
    assert result.exit_code == 0, result.output
    assert "g: 120 answered, 0 failed" in result.output
    summary = json.loads(Path("reports/g/summary.json").read_text())
    (pooled,) = (t for t in summary["transitions"] if t["bin"] == "all")
    assert (pooled["b_safe"], pooled["b_broken"]) == (0.5, 0.2)
    assert summary["provenance"]["started"] < summary["provenance"]["finished"]
    assert Path("reports/g/report.md").exists()


def test_arms_are_stored_with_the_addresses_they_were_asked_at(
    kvbench: Kvbench, mock: MockServer
) -> None:
    assert kvbench("run", "exp.yaml").exit_code == 0
    with sqlite3.connect("reports/g/kvbench.sqlite") as db:
        found = db.execute("SELECT policy, budget, base_url FROM arms").fetchall()
    url = mock.base_url
    assert sorted(found) == [("none", 1.0, url), ("snapkv", 0.2, url), ("snapkv", 0.5, url)]


def test_preparing_says_what_takes_long(
    kvbench: Kvbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(together, "EVERY_S", 1e-9)
    result = kvbench("prepare", "exp.yaml", "--set", "tokenizer=auto")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if "counting tokens at" in line]
    assert len(said) == 1  # then one in half a minute, where none can be redrawn
    assert said[0].startswith("kvbench: counting tokens at http://127.0.0.1:")


def test_stages_one_by_one_and_their_prerequisites(kvbench: Kvbench) -> None:
    def refused(stage: str, hint: str) -> None:
        result = kvbench(stage, "exp.yaml")
        assert result.exit_code == 4
        assert hint in result.output
        assert result.output.count("\n") == 2

    for stage in ("score", "analyse", "report"):
        refused(stage, "make one: kvbench run exp.yaml")
    assert kvbench("prepare", "exp.yaml").exit_code == 0
    assert Path("reports/g/manifest.json").exists()
    assert kvbench("run", "exp.yaml").exit_code == 0
    refused("analyse", "kvbench score g")
    refused("report", "kvbench analyse g")
    for stage in ("score", "analyse", "report"):
        result = kvbench(stage, "g")
        assert result.exit_code == 0, result.output


def test_a_second_run_asks_nothing(kvbench: Kvbench, mock: MockServer) -> None:
    kvbench("run", "exp.yaml")
    posts = mock.posts
    assert "0 answered, 0 failed, 120 stored before" in kvbench("run", "g").output
    assert mock.posts == posts


def test_what_was_asked_cannot_be_judged_otherwise(kvbench: Kvbench) -> None:
    kvbench("all", "exp.yaml")
    refused = kvbench("analyse", "g", "--set", "kv.budgets=[1.0]")
    assert refused.exit_code == 4
    assert "valid: gate.margin" in refused.output
    for stage in ("score", "report"):
        assert kvbench(stage, "g", "--set", "gate.margin=0.2").exit_code == 2


SHAPES = [
    {}, [], None, 7, {"provenance": 3}, {"provenance": {}}, {"cells": {}, "provenance": {}},
    {"checksum": 1}, {"checksum": "x", "provenance": {}, "cells": [[]]}, [["checksum", 1]],
]  # fmt: skip


def test_a_summary_of_another_shape_is_refused_and_made_again(kvbench: Kvbench) -> None:
    kvbench("run", "exp.yaml")
    kvbench("score", "g")
    kvbench("analyse", "g")
    file = Path("reports/g/summary.json")
    good = json.loads(file.read_text())
    altered = [{**good, key: value} for key in good for value in ("x", 7, {"a": 1})]
    better = {**good, "cells": [{**cell, "verdict_holm": "holds"} for cell in good["cells"]]}
    deep = "[" * 100_000
    for text in [*map(json.dumps, [*SHAPES, *altered, better]), "", "{", deep, "NaN"]:
        file.write_text(text)
        result = kvbench("report", "g")
        assert result.exit_code == 4, text[:200]
        what, hint = result.output.splitlines()
        assert "there is no summary.json as it was written" in what
        assert hint == "make it: kvbench analyse g"
    assert kvbench("analyse", "g").exit_code == 0
    assert json.loads(file.read_text())["cells"] == good["cells"]


def test_cells_of_one_name_are_refused(kvbench: Kvbench) -> None:
    alike = kvbench("validate", "exp.yaml", "--set", "kv.budgets=[0.5, 0.5000000000000001]")
    assert alike.exit_code == 4
    what, _ = alike.output.splitlines()
    assert "kv.budgets: 0.5000000000000001 and 0.5 make cells of one name" in what
    assert kvbench("validate", "exp.yaml", "--set", "kv.budgets=[0.5, 0.5001]").exit_code == 0
    variants = "variants={a: {}, b: {}}"
    assert kvbench("validate", "exp.yaml", "--set", variants).exit_code == 0


def test_unknown_group_names_the_known(kvbench: Kvbench) -> None:
    kvbench("prepare", "exp.yaml")
    result = kvbench("report", "h")
    assert result.exit_code == 4
    assert "groups there: g" in result.output


@pytest.mark.parametrize(("typed", "meant"), [("cardd", "card"), ("best-", "best")])
def test_a_mistyped_command_names_the_nearest_though_it_is_not_loaded(
    typed: str, meant: str
) -> None:
    done = CliRunner().invoke(Root("kvbench"), [typed])
    assert (done.exit_code, f"'{meant}'" in done.output) == (2, True), done.output


def test_no_server_is_two_lines_and_exit_code_10(kvbench: Kvbench, mock: MockServer) -> None:
    mock.kill()
    result = kvbench("run", "exp.yaml")
    assert result.exit_code == 10
    assert "no server answers" in result.output


def test_validate_and_resolve(kvbench: Kvbench) -> None:
    assert "3 cells, 2 of them judged" in kvbench("validate", "exp.yaml").output
    resolved = kvbench("resolve", "exp.yaml", "--set", "gate.margin=0.2").output
    assert "margin: 0.2" in resolved
    assert "# files: exp.yaml" in resolved
    again = kvbench("resolve", "exp.yaml", "--set", "executor.name=parsl").output
    assert yaml.safe_load(again)["executor"]["name"] == "parsl"
    enough = kvbench("validate", "exp.yaml", "--set", "bins.per_bin=42").output
    assert "never hold" not in enough
    few = kvbench("validate", "exp.yaml", "--set", "bins.per_bin=4").output
    assert "warning: jsonl:words.jsonl: 4 examples in 1 bin can never hold or break" in few
    off = kvbench("validate", "exp.yaml", "--set", "engine.base_url=localhost:8000/v1")
    assert off.exit_code == 4
    assert "engine.base_url: 'localhost:8000/v1' is not valid: has no http://" in off.output
    wrong = kvbench("validate", "exp.yaml", "--set", "kv.policies=[snapvk]")
    assert wrong.exit_code == 4
    assert wrong.output.startswith("kvbench: --set kv.policies=[snapvk]: kv.policies.0: unknown")
    assert "\ndid you mean snapkv? Valid: " in wrong.output
    vllm = ("--set", "engine.name=vllm", "--set", "kv.policies=[fp8_e5m3]")
    assert (
        "\ndid you mean fp8_e5m2? valid: none, fp8" in kvbench("validate", "exp.yaml", *vllm).output
    )


def test_judge_any_csv(kvbench: Kvbench) -> None:
    with Path("pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["task", "bin", "policy", "budget", "example_id", "cluster", "control", "treated"]
        )
        for n in range(100):
            writer.writerow(["None", 0, "NA", 0.5, n, n, 1, 1])
            writer.writerow(["None", 0, "NA", 0.1, n, n, 1, int(n % 2)])
    result = kvbench("judge", "pairs.csv", "--margin", "0.1", "--alpha", "0.05", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output)
    verdicts = {c["budget"]: c["verdict_holm"] for c in summary["cells"] if c["bin"] == 0}
    assert verdicts == {0.5: "holds", 0.1: "breaks"}
    assert "B breaks" in kvbench("judge", "pairs.csv").output
    missing = kvbench("judge", "nothing.csv")
    assert missing.exit_code == 4


def test_score_file(kvbench: Kvbench) -> None:
    lines = [
        {"prediction": "It is 12345.", "answers": ["12345"]},
        {"prediction": "", "answers": ["12345"]},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = kvbench("score-file", "niah/single", "p.jsonl", "--json")
    assert [json.loads(line) for line in result.output.splitlines()] == [
        {"score": 1.0, "label": ""},
        {"score": 0.0, "label": "EMPTY_OUTPUT"},
    ]


def test_score_file_by_either_arithmetic_of_code(kvbench: Kvbench) -> None:
    """Both are in the wild under one name; which one is asked for is said by the metric."""
    line = {"prediction": "self.assertEqual(a, b)", "answers": ["print(f'{x}')"]}
    Path("p.jsonl").write_text(json.dumps(line) + "\n")
    score = ("score-file", "longbench/lcc", "p.jsonl")
    assert kvbench(*score).output == "0.1100\n"
    assert kvbench(*score, "--metric", "code_similarity_levenshtein").output == "0.2300\n"
    refused = kvbench(*score, "--metric", "code_similarity_x")
    assert refused.exit_code == 4
    assert "code_similarity_levenshtein" in refused.output


def test_inspect_shows_a_prompt(kvbench: Kvbench) -> None:
    result = kvbench(
        "inspect",
        "niah/single",
        "--set",
        "tokenizer=approximate",
        "--set",
        "engine.base_url=http://x",
    )
    assert result.exit_code == 0, result.output
    assert "secret number" in result.output


# -- what was prepared is run by its group's name ------------------------------------------------


def test_a_group_that_was_prepared_goes_through_every_stage_by_its_name(
    kvbench: Kvbench, mock: MockServer
) -> None:
    assert kvbench("prepare", "exp.yaml", "--set", "kv.budgets=[1.0, 0.5]").exit_code == 0
    Path("exp.yaml").unlink()
    nothing = kvbench("score", "g")
    assert nothing.exit_code == 4
    assert nothing.output.splitlines()[1] == "make one: kvbench run g"
    for stage in ("prepare", "run", "score", "analyse", "report", "all", "run"):
        result = kvbench(stage, "g")
        assert result.exit_code == 0, result.output
    assert sum(mock.asked.values()) == 80
    assert "0 answered, 0 failed, 80 stored before" in result.output


def test_what_is_prepared_anew_is_run_and_what_was_run_is_judged(kvbench: Kvbench) -> None:
    kvbench("all", "exp.yaml")
    kvbench("prepare", "exp.yaml", "--set", "gate.margin=0.3", "--set", "kv.budgets=[1.0, 0.1]")
    judged = json.loads(kvbench("analyse", "g", "--dry-run", "--json").output)
    assert judged["experiment"]["gate"]["margin"] == 0.1
    assert kvbench("analyse", "g").exit_code == 0
    summary = json.loads(Path("reports/g/summary.json").read_text())
    assert summary["experiment"]["gate"]["margin"] == 0.1
    assert "40 answered, 0 failed, 40 stored before" in kvbench("run", "g").output
    for stage in ("score", "analyse"):
        kvbench(stage, "g")
    summary = json.loads(Path("reports/g/summary.json").read_text())
    assert summary["experiment"]["gate"]["margin"] == 0.3


def test_it_is_run_from_another_folder_too(
    kvbench: Kvbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = Path("base.yaml")
    Path("exp.yaml").rename(base)
    Path("sub").mkdir()
    Path("sub/exp.yaml").write_text("extends: ../base.yaml\nbins: {per_bin: 20}\n")
    assert kvbench("prepare", "sub/exp.yaml", "--dir", "out").exit_code == 0
    monkeypatch.chdir(tmp_path / "sub")
    unasked = kvbench("analyse", "g", "--dir", "../out")
    hint = unasked.output.splitlines()[1].removeprefix("make one: kvbench ")
    assert hint == "run g --dir ../out"
    assert "g: 60 answered" in kvbench(*hint.split()).output
    unscored = kvbench("analyse", "g", "--dir", "../out").output.splitlines()[1]
    assert kvbench(*unscored.removeprefix("score them: kvbench ").split()).exit_code == 0
    monkeypatch.setenv("KVBENCH_DIR", "../out")
    assert kvbench("report", "g").output.splitlines()[1] == "make it: kvbench analyse g"


def test_a_sweep_that_was_prepared_is_run_by_its_name(kvbench: Kvbench, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: float(budget > 0.2)
    with Path("exp.yaml").open("a") as file:
        file.write("stages: {zero: {bins: {per_bin: 12}}, one: {bins: {per_bin: 20}}}\n")
    assert kvbench("prepare", "exp.yaml").exit_code == 0
    early = kvbench("run", "g.one")
    assert early.exit_code == 4
    assert early.output.splitlines()[1] == "make one: kvbench run g.zero"
    result = kvbench("run", "g")
    assert result.exit_code == 0, result.output
    assert re.findall(r"^(\S+): \d+ answered", result.output, re.M) == ["g.zero", "g.one"]
    summary = kvbench("all", "g").output
    assert "g.zero/summary.json" in summary
    assert "g.one/summary.json" in summary
    assert kvbench("wait", "g", "--then", "report").exit_code == 0


def test_a_wait_for_what_was_only_prepared_says_how_it_is_begun(
    kvbench: Kvbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvbench("prepare", "exp.yaml")
    result = kvbench("wait", "g", "--every", "0.01")
    assert result.exit_code == 10
    assert "or kvbench run g" in result.output
