"""Other ways of asking: prompts and temperatures as variants, trials as replicates."""

from __future__ import annotations

import sqlite3

import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer


def declare(project: Project, text: str) -> None:
    file = project.path / "exp.yaml"
    file.write_text(f"{file.read_text()}{text}\n")


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_each_variant_has_its_cells_and_equal_controls_are_asked_once(
    project: Project, mock: MockServer, n: str
) -> None:
    declare(project, "variants: {plain: {}, same: {}, terse: {after: ' now.'}}")
    mock.accuracy = lambda policy, budget: 1.0 if budget >= 0.5 else 0.5
    project.run("-n", n).assert_outcomes(passed=3 * 2 * 3)
    assert len(mock.controls) == 2 * 20, "plain and same are one control, terse is another"
    assert set(mock.controls) == {1}
    cells = project.summary()["cells"]
    assert {c["variant"] for c in cells} == {"plain", "same", "terse"}
    by_way = {(c["variant"], c["bin"]): c["treated_mean"] for c in cells if c.get("budget") == 0.2}
    assert by_way["plain", 0] == by_way["same", 0]


def test_trials_are_averaged_within_an_example_and_greedy_ones_are_one(
    project: Project, mock: MockServer
) -> None:
    declare(
        project, "variants: {cold: {}, warm: {temperature: 0.7}}\nsampling: {trials: 3, seed: 5}"
    )
    mock.accuracy = lambda policy, budget: 0.6
    project.run("-n", "0").assert_outcomes(passed=2 * 2 * 3)
    with sqlite3.connect(project.path / "reports" / "g" / "kvbench.sqlite") as db:
        rows = db.execute(
            "SELECT variant, replicate, count(*) FROM requests JOIN arms USING (arm_id)"
            " WHERE policy = 'none' GROUP BY 1, 2"
        ).fetchall()
    assert rows == [("cold", 0, 20), ("warm", 0, 20), ("warm", 1, 20), ("warm", 2, 20)]
    pooled = [c for c in project.summary()["cells"] if c["bin"] == "all"]
    assert {c["n"] for c in pooled} == {20}, "a trial is no further example"
    assert set(mock.controls) == {1}


def test_trials_of_greedy_variants_alone_are_refused(project: Project) -> None:
    declare(project, "variants: {cold: {}, chilly: {temperature: 0}}\nsampling: {trials: 3}")
    result = project.run("-n", "0")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*trials is 3 at temperature 0*"])
