"""Sequential sampling in a whole run against a scripted server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

SEQUENTIAL = (
    "--kvbench-set",
    "sampling.strategy=sequential",
    "--kvbench-set",
    "bins.per_bin={min: 8, max: 50}",
    "--kvbench-set",
    "gate.margin=0.3",
    "--kvbench-set",
    "kv.budgets=[1.0, 0.5, 0.3, 0.1]",
)
MOST = 2 * 50 * 4


def cliff(policy: str, budget: float) -> float:
    """Nothing is lost at 0.5; at 0.3 about the margin; at 0.1 nearly everything."""
    return {0.3: 0.7, 0.1: 0.05}.get(budget, 1.0)


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_far_from_the_transition_few_are_asked(project: Project, mock: MockServer, n: str) -> None:
    mock.accuracy = cliff
    project.run("-n", n, *SEQUENTIAL).assert_outcomes(passed=8)
    summary = project.summary()
    asked = {(c["bin"], c["budget"]): c["n"] for c in summary["cells"] if c["bin"] != "all"}
    for bin_ in (0, 1):
        assert asked[bin_, 0.1] < asked[bin_, 0.3]
        assert asked[bin_, 0.5] < asked[bin_, 0.3]
        assert asked[bin_, 1.0] == asked[bin_, 0.3]
    assert sum(asked.values()) == sum(mock.asked.values()) < 0.7 * MOST
    assert summary["sampling"] == {"wanted": sum(asked.values()), "most": MOST}
    assert (summary["partial"], summary["missing"]) == (False, [])
    treated = [c for c in summary["cells"] if c["verdict"] is not None]
    assert {c["method"].split(",")[0] for c in treated} == {"betting"}
    words = {c["budget"]: c["verdict_item"] for c in treated if c["bin"] == 0}
    assert (words[0.5], words[0.1]) == ("holds", "breaks")
    assert any("sequential sampling" in note for note in summary["integrity"]["notes"])


@pytest.mark.slow
def test_a_second_run_asks_nothing_and_says_the_same(project: Project, mock: MockServer) -> None:
    mock.accuracy = cliff
    project.run("-n", "0", *SEQUENTIAL)
    posts, first = mock.posts, project.summary()
    (project.path / "reports/g/summary.json").unlink()
    project.run("-n", "2", *SEQUENTIAL).assert_outcomes(passed=8)
    assert mock.posts == posts
    again = project.summary()
    for part in ("cells", "transitions", "integrity", "sampling"):
        assert again[part] == first[part]


def test_an_interrupted_run_goes_on_where_it_stopped(project: Project, mock: MockServer) -> None:
    mock.accuracy = cliff
    project.run("-n", "0", *SEQUENTIAL, "-k", "bin0")
    assert project.summary()["partial"]
    assert {m["bin"] for m in project.summary()["missing"]} == {1}
    project.run("-n", "0", *SEQUENTIAL)
    assert not project.summary()["partial"]
    assert set(mock.asked.values()) == {1}


def test_items_gate_on_what_the_report_says(project: Project, mock: MockServer) -> None:
    mock.accuracy = cliff
    result = project.run("-n", "0", *SEQUENTIAL, "--kvbench-set", "gate.mode=gate")
    cells = [c for c in project.summary()["cells"] if c["bin"] != "all"]
    breaks = [c for c in cells if c["verdict_item"] == "breaks"]
    assert len(breaks) >= 2
    result.assert_outcomes(
        passed=8 - len(breaks),
        failed=len(breaks),
        warnings=sum(c["verdict_item"] == "undetermined" for c in cells),
    )


def test_in_batches_a_round_goes_to_twice_what_was_looked_at(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock.accuracy = cliff
    monkeypatch.chdir(project.path)
    with BatchServer(reply=mock.completion) as server:
        more = f"sampling.strategy=sequential engine.mode=batch engine.base_url={server.base_url}"
        sets = [*more.split(), "bins={n: 2, edges: [150], per_bin: {min: 8, max: 50}}"]
        sets += ["gate.margin=0.3", "kv.budgets=[1.0, 0.3]"]
        run = ["run", "exp.yaml", *(word for one in sets for word in ("--set", one))]
        wait = ["wait", "g", "--every", "0.01"]
        ended = []
        while 0 not in ended:
            assert CliRunner().invoke(main, run).exit_code == 0
            done = CliRunner().invoke(main, wait)
            assert done.exit_code == 0 or "go on with what began it" in done.output
            ended.append(done.exit_code)
        sizes = [len(server.lines(batch["input_file_id"])) for batch in server.batches.values()]
    assert sizes == [2 * 2 * n for n in (8, 8, 16)]
    assert ended == [10, 10, 0]
    assert set(server.asked.values()) == {1}


def test_limits_and_strategy_need_each_other(project: Project) -> None:
    result = project.run("--kvbench-set", "sampling.strategy=sequential")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*bins.per_bin: {min, max} and sampling.strategy: sequential*"])
    wrong = project.run(*SEQUENTIAL[:2], "--kvbench-set", "bins.per_bin={min: 9, max: 8}")
    assert wrong.ret == 4
    wrong.stdout.fnmatch_lines(["*per_bin: min 9 is above max 8*"])
    assert not Path(project.path / "reports/g/kvbench.sqlite").exists()


def test_a_context_that_was_never_drawn_weighs_on_bets_and_on_items(
    project: Project, mock: MockServer
) -> None:
    """Three examples share one that comes last: items and report know that it could come."""
    file = project.path / "words.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()][:40]
    for place, row in enumerate(rows):
        row["cluster"] = "big" if place < 3 else f"c{place}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = ("bins.edges=null", "bins.n=1", "gate.margin=0.8", "sampling.seed=2")
    one_bin = [part for key in keys for part in ("--kvbench-set", key)]
    result = project.run("-n", "0", *SEQUENTIAL, *one_bin)
    assert result.ret == 0
    (cell,) = (c for c in project.summary()["cells"] if (c["bin"], c["budget"]) == (0, 0.5))
    n = cell["n"]
    assert (n, cell["treated_mean"]) == (cell["clusters"], 1.0)  # all of them singles
    expected = judge_cell(
        *(np.ones(n), np.ones(n), np.arange(n)), margin=0.8, alpha=0.05, anytime=True, largest=3
    )
    assert cell["ci_low"] == pytest.approx(expected.ci_low)
