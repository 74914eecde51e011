"""The pairs of stored groups, as `kvbench posterior` takes them."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pytest_kvbench.cli import main
from pytest_kvbench.ops.paired import paired_curves, read_pairs
from pytest_kvbench.pipeline.group import open_group
from tests.conftest import Project
from tests.support.groups import make_group
from tests.support.mock_server import MockServer


def test_measured_pairs_are_curves_with_their_settings(project: Project, mock: MockServer) -> None:
    project.run("--kvbench-set", "kv.params.snapkv.window_size=16")
    found = paired_curves([read_pairs(open_group(project.path / "reports" / "g"))]).pairs
    assert {(c.key.group, c.key.policy) for c in found} == {("g", "snapkv window_size=16")}
    assert [c.budgets for c in found] == [(0.5, 0.2)] * 2
    assert [len(c.control) for c in found] == [10, 10]
    summary = project.summary()
    for curve, bin_ in zip(sorted(found, key=lambda c: c.key.low), (0, 1), strict=True):
        deltas = {c["budget"]: c["delta"] for c in summary["cells"] if c["bin"] == bin_}
        lost = np.nanmean(curve.control[:, None] - curve.treated, axis=0)
        assert lost.tolist() == pytest.approx([-deltas[0.5], -deltas[0.2]])


def test_without_the_extra_it_says_what_to_install(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run()
    monkeypatch.setitem(sys.modules, "nutpie", None)
    result = CliRunner().invoke(main, ["posterior"])
    assert result.exit_code == 4
    assert "pip install 'pytest-kvbench[bayes]'" in result.output
    assert not (project.path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "other"], "no group has it"),
        (["nothing"], "no group has been run there"),
    ],
)
def test_what_is_not_there_is_named(project: Project, args: list[str], words: str) -> None:
    project.run()
    result = CliRunner().invoke(main, ["posterior", *args])
    assert result.exit_code == 4
    assert words in result.output


def test_a_group_that_cannot_be_counted_stops_no_other(tmp_path: Path) -> None:
    """One damaged, one without an answer: named and left out unless it was asked for."""
    for name in ("good", "torn", "void"):
        make_group(tmp_path, name, per_bin=5)
    (tmp_path / "torn/kvbench.sqlite").write_bytes(b"SQLite format 3")
    with contextlib.closing(sqlite3.connect(tmp_path / "void/kvbench.sqlite")) as database:
        database.executescript("delete from scores; delete from telemetry; delete from answers;")
    place = ["--dir", str(tmp_path), "--model", "other"]
    every = CliRunner().invoke(main, ["posterior", *place])
    assert "torn: left out: " in every.stderr
    assert "void: left out: group void: nothing has been answered yet" in every.stderr
    assert "--model other: no group has it" in every.stderr
    asked = CliRunner().invoke(main, ["posterior", "good", "void", *place])
    assert "kvbench: group void: nothing has been answered yet" in asked.stderr
