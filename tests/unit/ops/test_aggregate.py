"""All groups as one data set: incremental, whatever state a group is in."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from pytest_kvbench import load_group
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import StoreError
from pytest_kvbench.ops.aggregate import FOLDER, Source, aggregate, frame
from pytest_kvbench.ops.archive import archive_group
from pytest_kvbench.ops.columns import COLUMNS
from pytest_kvbench.ops.rollups import write_rollups
from pytest_kvbench.store.store import DATABASE
from tests.support.groups import make_group


def gather(reports):
    return aggregate([reports], reports / FOLDER)


def kvbench(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_a_row_per_answer_run_and_cell(tmp_path):
    make_group(tmp_path, "one", failed=3)
    make_group(tmp_path, "two", per_bin=5)
    done = gather(tmp_path)
    assert done.rows == 120 + 30
    answers, runs, cells = (frame(tmp_path / FOLDER, t) for t in ("answers", "runs", "cells"))
    assert len(answers) == done.rows
    assert list(answers.columns) == list(COLUMNS["answers"])
    assert answers["score"].isna().sum() == (answers["failure"] == "TIMEOUT").sum() == 3
    assert not answers.duplicated(["group", "key"]).any()
    assert list(runs.sort_values("group")["answers"]) == [117, 30]
    assert list(runs.sort_values("group")["failures"]) == [3, 0]
    assert len(cells) == 2 * (6 + 2)
    pooled = cells[(cells["group"] == "one") & (cells["bin"] == "all")]
    assert set(pooled["kept_bytes_mean"]) == {500.0, 200.0}


def test_only_what_is_new_is_read_again(tmp_path):
    make_group(tmp_path, "one")
    make_group(tmp_path, "two")
    assert len(gather(tmp_path).read) == 2
    again = gather(tmp_path)
    assert (again.read, again.unchanged) == ((), 2)
    make_group(tmp_path, "three")
    with sqlite3.connect(tmp_path / "one" / DATABASE) as db:
        db.execute("UPDATE scores SET value = 0")
    db.close()
    done = gather(tmp_path)
    assert sorted(os.path.basename(p) for p in done.read) == ["one", "three"]  # noqa: PTH119
    answers = frame(tmp_path / FOLDER, "answers")
    assert len(answers) == 360
    assert answers.loc[answers["group"] == "one", "score"].max() == 0


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, None])
def test_a_corrupt_group_is_named_and_the_rest_complete(tmp_path, content):
    make_group(tmp_path, "good")
    make_group(tmp_path, "bad")
    whole = (tmp_path / "bad" / DATABASE).read_bytes()
    damaged = whole[: len(whole) // 2] if content is None else content
    (tmp_path / "bad" / DATABASE).write_bytes(damaged)
    for _ in range(2):
        done = kvbench("aggregate", "--dir", tmp_path)
        assert done.exit_code == 0
        assert f"skipped {tmp_path / 'bad'}" in done.stderr
        assert "120 answers" in done.stdout
    (tmp_path / "bad" / DATABASE).write_bytes(whole)
    assert gather(tmp_path).rows == 240


def test_reading_changes_nothing_and_older_schemas_are_named(tmp_path):
    make_group(tmp_path, "good")
    make_group(tmp_path, "old")
    file = tmp_path / "old" / DATABASE
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version=1")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = file.read_bytes()
    done = gather(tmp_path)
    assert done.rows == 120
    assert "unreleased version" in done.skipped[str(tmp_path / "old")]
    assert file.read_bytes() == before


def test_archives_count_where_their_group_is_not(tmp_path):
    prepared = make_group(tmp_path, "kept")
    archive_group(prepared.folder, tmp_path / "none")
    assert gather(tmp_path).rows == 120
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for archive in tmp_path.glob("*.tar.gz"):
        archive.rename(elsewhere / archive.name)
    assert aggregate([elsewhere], tmp_path / "data").rows == 120


def test_a_group_that_is_gone_stays_known(tmp_path):
    prepared = make_group(tmp_path, "gone")
    gather(tmp_path)
    prepared.folder.rename(tmp_path / ".away")
    done = gather(tmp_path)
    assert len(done.gone) == 1
    assert len(frame(tmp_path / FOLDER, "answers")) == 120


def test_a_group_that_was_never_analysed_has_no_cells(tmp_path):
    make_group(tmp_path, "raw")
    with sqlite3.connect(tmp_path / "raw" / DATABASE) as db:
        for table in ("verdicts", "bin_stats", "transitions"):
            db.execute(f"DELETE FROM {table}")
    db.close()
    make_group(tmp_path, "whole")
    gather(tmp_path)
    assert set(frame(tmp_path / FOLDER, "cells")["group"]) == {"whole"}


def test_nothing_new_loads_nothing_heavy(tmp_path):
    make_group(tmp_path)
    gather(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pytest_kvbench.ops.aggregate import aggregate;"
        f"aggregate([Path({str(tmp_path)!r})], Path({str(tmp_path / FOLDER)!r}));"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert not {"pandas", "pyarrow", "numpy"} & set(done.stdout.split())


def test_load_group_gives_frames(tmp_path):
    make_group(tmp_path)
    group = load_group(tmp_path / "g")
    assert isinstance(group.answers, pd.DataFrame)
    assert (len(group.answers), len(group.cells), len(group.transitions)) == (120, 8, 3)
    assert len(group.answers[~group.answers["aa"]]) == 120
    assert set(group.cells["verdict"].dropna()) <= {"holds", "breaks", "undetermined"}
    with pytest.raises(StoreError, match="is not there"):
        load_group(tmp_path / "nope")


def test_files_from_before_votes_are_read_as_answers_that_speak_for_themselves(tmp_path):
    make_group(tmp_path, "new")
    make_group(tmp_path, "old")
    gather(tmp_path)
    for file in sorted((tmp_path / FOLDER).glob("*/old-*.parquet")):
        rows = pd.read_parquet(file)
        rows.drop(columns=["self_consistency", "elected"], errors="ignore").to_parquet(file)
    answers, cells = (frame(tmp_path / FOLDER, table) for table in ("answers", "cells"))
    assert set(answers["group"]) == {"new", "old"}
    assert (answers["elected"].dtype, answers["elected"].all()) == (bool, True)
    assert set(answers["self_consistency"]) == set(cells["self_consistency"]) == {1}


def test_an_answer_counts_once_whatever_holds_it(tmp_path):
    """Archived, cleaned away, restored, and copied under another name: one group of 120 answers."""
    reports, home = tmp_path / "reports", tmp_path / "copies"
    make_group(reports, "g")

    def counted():
        done = kvbench("aggregate", "--dir", reports, "--dir", home)
        assert "120 answers" in done.stdout, done.output
        answers, runs, cells = (frame(reports / FOLDER, t) for t in ("answers", "runs", "cells"))
        return len(answers), answers["key"].nunique(), len(runs), len(cells)

    assert counted() == (120, 120, 1, 8)
    assert kvbench("archive", "g", "--dir", reports).exit_code == 0
    assert kvbench("clean", "g", "--min-age", "0s", "--dir", reports).exit_code == 0
    assert not (reports / "g").exists()
    assert counted() == (120, 120, 1, 8)
    (archive,) = reports.glob("*.tar.gz")
    assert kvbench("restore", archive, "--dir", reports).exit_code == 0
    assert counted() == (120, 120, 1, 8)
    shutil.copytree(reports / "g", home / "g")
    assert counted() == (120, 120, 1, 8)
    shutil.copytree(reports / "g", reports / "another_name")
    assert counted() == (120, 120, 1, 8)
    (reports / "g").rename(reports / "renamed")
    assert counted() == (120, 120, 1, 8)


def test_a_copy_that_went_on_alone_adds_what_it_has_more(tmp_path):
    make_group(tmp_path / "a", "g")
    shutil.copytree(tmp_path / "a" / "g", tmp_path / "b" / "g")
    with sqlite3.connect(tmp_path / "a" / "g" / DATABASE) as db:
        some = db.execute("SELECT key FROM answers LIMIT 20").fetchall()
        for name in ("scores", "telemetry", "answers"):
            db.executemany(f"DELETE FROM {name} WHERE key = ?", some)
    db.close()
    for reports in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]):
        done = aggregate(reports, tmp_path / "data")
    assert (done.rows, len(frame(tmp_path / "data", "answers"))) == (120, 120)
    shutil.rmtree(tmp_path / "b")
    make_group(tmp_path / "a", "more", per_bin=4)
    assert aggregate([tmp_path / "a"], tmp_path / "data").rows == 120 + 24


def test_what_an_older_version_gathered_is_taken_over(tmp_path):
    """Its files were named by place, so that a copy counted twice; a group that is gone stays."""
    make_group(tmp_path, "gone")
    make_group(tmp_path, "here")
    gather(tmp_path)
    data = tmp_path / FOLDER
    state = json.loads((data / ".state.json").read_text())
    for place in state["sources"]:
        name = Source(Path(place)).name
        for table in COLUMNS:
            (data / ".sources" / name / f"{table}.parquet").rename(data / table / f"{name}.parquet")
            for file in (data / table).glob(f"{Path(place).name}-*.parquet"):
                if file.stem != name:
                    file.unlink()
    state["schema"] = 4
    (data / ".state.json").write_text(json.dumps(state))
    shutil.rmtree(tmp_path / "gone")
    assert gather(tmp_path).rows == 240
    assert len(frame(data, "answers")) == 240


def test_models_are_rolled_up_and_their_policies_ranked(tmp_path):
    make_group(
        tmp_path,
        draw=lambda cell, i, rng: float(cell.policy != "tova" or i % 4 > 0 or cell.budget > 0.5),
        bins=1,
        per_bin=66,
        kv={"policies": ["tova", "snapkv"], "budgets": [1.0, 0.5, 0.2]},
    )
    assert kvbench("aggregate", "--dir", tmp_path).exit_code == 0
    arms, ranks = (
        pd.read_csv(tmp_path / FOLDER / f"by_model_{name}.csv") for name in ("arms", "ranking")
    )
    assert dict(zip(arms["policy"] + arms["budget"].map(str), arms["n"], strict=True)) == {
        "snapkv0.2": 66, "snapkv0.5": 66, "tova0.2": 66, "tova0.5": 66,
    }  # fmt: skip
    assert list(ranks["policy"]) == ["snapkv", "tova"]
    assert list(ranks["holds_down_to"].fillna(0)) == [0.2, 0]
    assert not (tmp_path / FOLDER / "by_model_correlations.csv").exists()


def test_grounding_goes_with_accuracy_where_evidence_was_asked_for(tmp_path):
    """Half of the right answers at the small budget show no witness; wrong ones never do."""
    make_group(tmp_path, bins=1, kv={"policies": ["snapkv"], "budgets": [1.0, 0.2]})
    gather(tmp_path)
    answers, runs, cells = (frame(tmp_path / FOLDER, t) for t in ("answers", "runs", "cells"))
    right = answers["score"].to_numpy()
    seen = right * ((answers["budget"] == 1) | (answers.index % 2 == 0))
    parts = [json.dumps({"witness_pass": s, "coverage": s / 2}) for s in seen]
    graded = answers.assign(metric="credited", em=right, score=seen, parts=parts)
    write_rollups(tmp_path, graded, runs, cells, 0.05)
    found = (
        pd.read_csv(tmp_path / "by_model_correlations.csv").set_index(["of", "with"]).sort_index()
    )
    row = found.loc[("credited", "witness_pass")]
    assert row["correlation"] == pytest.approx(1)
    assert 0 < found.loc[("accuracy", "witness_pass"), "ci_low"] < 1
    means = pd.read_csv(tmp_path / "by_model_grounding.csv").set_index("budget")
    assert means.loc[0.2, "credited"] < means.loc[0.2, "accuracy"]
    assert means.loc[1.0, "credited"] == means.loc[1.0, "accuracy"]
