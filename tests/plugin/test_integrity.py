"""A database that lost something says so, in whatever command meets it; clocks decide nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.pipeline.group import open_group
from tests.conftest import Project
from tests.support.groups import make_group

DATABASE = Path("reports/g/kvbench.sqlite")


@pytest.fixture
def measured(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A group that was measured, its file whole without its WAL."""
    monkeypatch.chdir(project.path)
    project.run("-n", "0")
    change("PRAGMA wal_checkpoint(TRUNCATE)")
    return project


def change(*statements: str) -> None:
    with contextlib.closing(sqlite3.connect(DATABASE, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def flip_a_bit() -> None:
    """In the last character of the first key that the file has in an index of requests."""
    with contextlib.closing(sqlite3.connect(DATABASE)) as db:
        key = db.execute("SELECT key FROM answers ORDER BY key LIMIT 1 OFFSET 30").fetchone()[0]
    content = DATABASE.read_bytes()
    place = content.index(key.encode()) + 3
    DATABASE.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def drop_answers_parent() -> None:
    change("DELETE FROM requests WHERE key = (SELECT min(key) FROM answers)")


def drop_a_chosen_example() -> None:
    change("DELETE FROM manifest_entries WHERE position = 3")


@pytest.mark.parametrize("damage", [flip_a_bit, drop_answers_parent, drop_a_chosen_example])
def test_a_damaged_database_is_refused_by_every_stage(
    measured: Project, damage: Callable[[], None]
) -> None:
    damage()
    for stage in ("score", "analyse", "report"):
        done = CliRunner().invoke(main, [stage, "g"])
        assert done.exit_code == 10, done.output
        assert "kvbench.sqlite: it is damaged: " in done.output
        assert "kvbench restore" in done.output


@pytest.mark.parametrize(
    "column", ["experiments.snapshot", "experiments.fingerprint", "examples.meta"]
)
def test_json_with_a_flipped_bit_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_group(Path("reports"))
    table, name = column.split(".")
    change(f"UPDATE {table} SET {name} = 'z' || substr({name}, 2)")  # "{" is 0x7b, "z" 0x7a
    done = CliRunner().invoke(main, ["analyse", "g"])
    assert done.exit_code == 10, done.output
    assert "kvbench.sqlite: it is damaged: JSON that cannot be read" in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 2


def test_runs_are_in_the_order_they_began_whatever_the_clock_says(measured: Project) -> None:
    measured.run("-n", "0", "--kvbench-set", "gate.margin=0.3")
    change("UPDATE experiments SET started_at = '1999' || substr(started_at, 5) WHERE rowid = 2")
    assert open_group(DATABASE.parent).experiment.gate.margin == 0.3
    result = measured.run("-n", "0", "--kvbench-set", "gate.margin=0.3")
    result.stdout.fnmatch_lines(["nothing was left to do: 60 answers were there"])
