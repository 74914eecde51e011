"""`kvbench power`: n per bin and what it costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.analyse.power import power_of
from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.mock_server import MockServer

EXPERIMENT = """\
group: g
tasks: [niah/single]
bins: {n: 3, per_bin: 20}
kv: {policies: [snapkv, knorm], budgets: [1.0, 0.5, 0.2]}
gate: {margin: 0.15, alpha: 0.05}
"""


def rows(*args: str) -> dict[str, dict[str, float]]:
    result = CliRunner().invoke(main, ["power", *args, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {row["of"]: row for row in json.loads(result.output)["rows"]}


def test_lossless_needs_36_pairs_for_ten_points() -> None:
    (row,) = rows("--margin", "0.1", "--discordance", "0").values()
    assert (row["n"], row["power"], row["requests"]) == (36, 1.0, 72)


def test_an_experiment_brings_its_cells_its_bins_and_its_arms(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT)
    found = rows(str(file), "--discordance", "0")
    assert found["one cell alone"]["n"] == 23  # 0.85 ** 23 < 0.025
    assert found["each of 12 cells, at alpha / 12"]["n"] == 38
    assert found["3 alike bins together"]["n"] == 8
    declared = found["as declared, each cell"]
    assert (declared["n"], declared["power"]) == (20, 0.0)
    assert declared["requests"] == 20 * 3 * (1 + 2 * 2 + 1)  # and one that is known to be bad
    more = rows(str(file), "--discordance", "0", "--set", "aa=true", "--set", "bins.per_bin=40")
    assert more["as declared, each cell"]["power"] == 1.0
    assert more["as declared, each cell"]["requests"] == 40 * 3 * (2 + 2 * 2 + 1)


def test_a_loss_near_the_margin_has_no_number_and_the_table_says_so() -> None:
    args = ["power", "--margin", "0.0101", "--loss", "0.01", "--discordance", "0.9"]
    result = CliRunner().invoke(main, args, catch_exceptions=False)
    assert "no number within reach" in result.output


@pytest.mark.parametrize("wrong", [["--loss", "0.2"], ["--discordance", "0.01", "--loss", "0.05"]])
def test_what_cannot_be_is_refused_in_two_lines(wrong: list[str]) -> None:
    result = CliRunner().invoke(main, ["power", "--margin", "0.1", *wrong])
    assert result.exit_code == 4
    assert len(result.stderr.strip().splitlines()) == 2


def test_rows_over_bins_share_their_error_too(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT)
    found = rows(str(file), "--discordance", "0")
    assert found["3 bins, each of 4 rows over them"]["n"] == 11  # 0.85 ** 33 < 0.025 / 4


def test_rows_over_bins_are_judged_as_declared_and_contexts_cost(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT)
    args = [str(file), "--discordance", "0.02", "--dir", str(tmp_path)]
    assert rows(*args)["as declared, each row over 3 bins"]["power"] > 0.9
    few = rows(*args, "--set", "bins.per_bin=5")
    assert few["as declared, each row over 3 bins"]["power"] == 0
    shared = rows(*args, "--per-context", "10", "--shared", "1")
    assert shared["as declared, each row over 3 bins"]["power"] < 0.5
    assert shared["one cell alone"]["n"] > 200


def test_a_plan_that_can_never_hold_is_named(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(EXPERIMENT.replace("per_bin: 20", "per_bin: 5"))
    args = ["power", str(file), "--dir", str(tmp_path)]
    told = CliRunner().invoke(main, args, catch_exceptions=False).output
    assert "niah/single: 15 examples in 3 bins can never hold a margin of 0.15" in told
    assert "per_bin: 11 is the least that could" in told
    loose = CliRunner().invoke(main, [*args, "--margin", "0.4"], catch_exceptions=False).output
    assert "can never" not in loose


def test_the_controls_second_run_says_how_much_differs(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["kvbench"])
    monkeypatch.chdir(project.path)
    args = ["power", "exp.yaml", "--json"]
    before = json.loads(CliRunner().invoke(main, args, catch_exceptions=False).output)
    assert before["discordance"] == 0.10
    project.run("-n", "0", "--kvbench-set", "aa=true")
    floor = project.summary()["integrity"]["aa"]["discordance"]
    after = json.loads(CliRunner().invoke(main, args, catch_exceptions=False).output)
    assert after["discordance"] == floor == 0


def test_sampling_in_rounds_is_foreseen_by_its_own_rule(tmp_path: Path) -> None:
    """The exact test of a fixed number says .88 where sampling in rounds decides less often."""
    file = tmp_path / "e.yaml"
    file.write_text(
        EXPERIMENT.replace("per_bin: 20", "per_bin: {min: 12, max: 100}").replace("0.15", "0.10")
        + "sampling: {strategy: sequential}\n"
    )
    args = ["--discordance", "0.1", "--set", "kv.policies=[snapkv]", "--set", "bins.n=1"]
    found = rows(str(file), *args)
    sampled = found["as declared, 12 to 100 in rounds"]["power"]
    fixed = power_of(100, 0.10, 0.1, 0.0, 0.05 / 2)
    assert 0.2 < sampled < fixed - 0.05


def needs(*args: str) -> dict[str, dict[str, float]]:
    result = CliRunner().invoke(main, ["power", *args, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {row["of"]: row for row in json.loads(result.output)["divergence"]["rows"]}


@pytest.mark.parametrize(("margin", "least"), [(0.10, 36), (0.05, 72), (0.02, 183)])
def test_distributions_need_prompts_whatever_they_show(
    tmp_path: Path, margin: float, least: int
) -> None:
    file = tmp_path / "e.yaml"
    one = "kv: {policies: [snapkv], budgets: [1.0, 0.5]}\nmeasure: divergence\n"
    file.write_text(
        f"group: g\ntasks: [niah/single]\nbins: {{n: 1, per_bin: 20}}\n{one}"
        f"gate: {{margin: 0.3, divergence: {{margin: {margin}}}}}\n"
    )
    (row,) = needs(str(file), "--spread", "0.0001").values()
    assert row["least"] == least <= row["n"] <= least + 2
    (noisy,) = needs(str(file), "--spread", "0.1").values()
    assert noisy["n"] > row["n"]
    (lossy,) = needs(str(file), "--loss", f"{margin / 2}").values()
    assert lossy["n"] > 1.5 * least
    shown = CliRunner().invoke(main, ["power", str(file)]).output
    assert f"hold a margin of {margin:g} of overlap" in shown
    assert "0.3" not in shown, "the margin of scores, of which there are none"
    assert f"per_bin: {least} is the least that could" in shown
    text = CliRunner().invoke(main, ["validate", str(file)]).output
    assert f"per_bin: {least} is the least that could" in text
    worse = CliRunner().invoke(main, ["power", str(file), "--loss", "0.5"])
    assert (worse.exit_code, f"below the margin, {margin:g}" in worse.output) == (4, True)


def test_each_measure_is_a_family_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f"{EXPERIMENT}measure: [score, divergence]\n")
    assert "each of 12 cells, at alpha / 12" in rows(str(file), "--discordance", "0")
    assert needs(str(file)).keys() == {
        "one cell alone",
        "each of 12 cells, at alpha / 12",
        "3 bins, each of 4 rows over them",
    }
