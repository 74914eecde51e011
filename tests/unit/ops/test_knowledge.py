"""What the data set says: catalog, best settings, effects, insights, exports."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.aggregate import FOLDER, aggregate, frame
from pytest_kvbench.ops.arms import judged_arms
from pytest_kvbench.ops.best import best as best_of
from pytest_kvbench.ops.catalog import catalog
from pytest_kvbench.ops.effects import effects
from pytest_kvbench.ops.insights import rank_correlation
from pytest_kvbench.ops.recipes import with_dials
from pytest_kvbench.ops.sheet import csv_text
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.observe import missing_cells
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.store.store import DATABASE, Store
from tests.support.groups import make_group

LADDER = {"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.2]}


def kvbench(*args):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return done.stdout


def tables(reports):
    aggregate([reports], reports / FOLDER)
    return tuple(frame(reports / FOLDER, t) for t in ("answers", "runs", "cells"))


def best(every, length="all"):
    """Of each line over all lengths, or at one, what is best."""
    rows = best_of(judged_arms(*every))
    return rows[rows["length"] == length]


def lossless_to(threshold):
    return lambda cell, i, rng: float(cell.budget >= threshold)


def test_best_is_the_smallest_budget_that_holds_over_policies_and_groups(tmp_path):
    make_group(tmp_path, "a", draw=lossless_to(0.5), per_bin=60)
    make_group(
        tmp_path, "b", draw=lossless_to(0.2), per_bin=60, kv={**LADDER, "policies": ["tova"]}
    )
    (row,) = best(tables(tmp_path)).to_dict("records")
    assert (row["policy"], row["budget"], row["groups"]) == ("tova", 0.2, 1)
    assert (row["kept_bytes_mean"], row["full_bytes_mean"]) == (200, 1000)
    assert row["control_latency_p50"] == 1.0
    assert row["ci_low"] > -0.1
    assert (row["proof"], row["control_mean"], row["achieved"]) == (
        "proven",
        1.0,
        pytest.approx(0.2),
    )


def test_best_says_where_nothing_holds_and_doubts_what_broke_elsewhere(tmp_path):
    make_group(tmp_path, "a", draw=lossless_to(0.2), per_bin=60)
    make_group(tmp_path, "b", draw=lossless_to(0.5), per_bin=60, examples="other")
    (row,) = best(tables(tmp_path)).to_dict("records")
    assert (row["budget"], row["doubt"]) == (0.5, "")
    (note,) = row["notes"]
    assert note == (
        "snapkv 0.2 over all lengths holds in 1 and breaks in 1 of 2 groups "
        "(b at 0 to 59 and 100 to 159 tokens): -0.50 over their 240 pairs, breaks"
    )
    nothing = tmp_path / "nothing"
    make_group(nothing, "c", draw=lossless_to(1.0), per_bin=60)
    (row,) = best(tables(nothing)).to_dict("records")
    assert row["policy"] is None
    assert "none shown" in kvbench("best", "--dir", nothing)


def test_best_speaks_of_the_verdict_that_counts(tmp_path):
    """0.5 holds on its own, and not after the correction for all the cells of the plan."""
    kv = {"policies": ["snapkv", "tova", "knorm", "keydiff"], "budgets": [1.0, 0.5, 0.2, 0.1]}
    make_group(tmp_path, "many", draw=lossless_to(0.5), per_bin=22, kv=kv)
    answers, runs, cells = tables(tmp_path)
    pooled = cells[(cells["bin"] == "all") & (cells["budget"] == 0.5)]
    assert (set(pooled["verdict"]), set(pooled["verdict_holm"])) == ({"holds"}, {"undetermined"})
    (row,) = best((answers, runs, cells)).to_dict("records")
    assert row["policy"] is None


def test_best_takes_the_pairs_of_all_groups_together(tmp_path):
    """22 pairs without a loss hold nothing; those of three groups together do."""
    ladder = {"policies": ["snapkv"], "budgets": [1.0, 0.5]}
    for number in range(3):
        make_group(
            tmp_path,
            f"g{number}",
            draw=lossless_to(0.5),
            bins=1,
            per_bin=22,
            kv=ladder,
            examples=f"other{number}",
        )
    every = tables(tmp_path)
    assert set(every[2].loc[every[2]["policy"] == "snapkv", "verdict_holm"]) == {"undetermined"}
    (row,) = best(every).to_dict("records")
    assert (row["policy"], row["chosen_from"], row["error"]) == ("snapkv", 1, 0.025)
    assert (row["n"], row["groups"]) == (66, 3)
    shown = kvbench("best", "--dir", tmp_path)
    assert "margin in at most 2.5%" in shown
    assert max(map(len, shown.splitlines())) <= 130


def test_answers_of_another_length_are_lines_of_their_own_and_named(tmp_path):
    ladder = {"policies": ["snapkv"], "budgets": [1.0, 0.5]}
    for length in (64, 8):
        make_group(tmp_path, f"g{length}", bins=1, kv=ladder, sampling={"max_tokens": length})
    heads = [
        line for line in kvbench("best", "--dir", tmp_path).splitlines() if "margin 0." in line
    ]
    assert len(heads) == 2
    assert all(f"at most {length} tokens" in "".join(heads) for length in (64, 8))


def test_what_best_names_has_an_interval_for_all_it_was_chosen_from(tmp_path):
    kv = {"policies": ["snapkv", "tova", "knorm"], "budgets": [1.0, 0.5]}
    for number in range(2):
        name, examples = f"g{number}", f"other{number}"
        make_group(
            tmp_path, name, draw=lossless_to(0.5), bins=1, per_bin=90, kv=kv, examples=examples
        )
    arms = judged_arms(*tables(tmp_path))
    (row,) = best_of(arms).to_dict("records")
    (own,) = arms[arms["policy"] == row["policy"]].to_dict("records")
    assert (row["chosen_from"], row["n"], row["groups"]) == (3, 180, 2)
    assert row["ci_low"] == own["together_low"] < own["ci_low"] < row["delta"]


def test_treatments_of_a_sick_control_are_not_measured_asked_or_not(tmp_path):
    prepared = make_group(tmp_path, draw=lambda cell, i, rng: float(cell.bin > 0), per_bin=60)
    rows = observed(prepared).rows
    kept = rows.where(lambda row: row.cell.is_control or row.cell.bin > 0)  # as one asks live
    asked, unasked = (judge(prepared.experiment, some) for some in (rows, kept))
    names = ("bin", "policy", "budget", "verdict", "verdict_holm", "reason")
    for whole, part in zip(asked.cells, unasked.cells, strict=True):
        assert [whole[name] for name in names] == [part[name] for name in names]
        assert ("partial-pool: bins 0" in str(part["flags"])) == (
            part["bin"] == "all" and part["policy"] != "none"
        )
    sick = [row for row in unasked.cells if row["bin"] == 0 and row["policy"] != "none"]
    assert {(row["verdict"], row["n"]) for row in sick} == {("not-measured", 0)}
    planned = observed(prepared).planned
    assert missing_cells(prepared, planned, kept, unasked.cells) == []
    (row,) = best(tables(tmp_path)).to_dict("records")
    assert (row["budget"], "lacks bins" in row["doubt"]) == (0.2, True)


def test_best_says_what_nothing_proves(tmp_path):
    make_group(tmp_path, "a", draw=lossless_to(0.5), per_bin=60)
    answers, runs, cells = tables(tmp_path)
    (row,) = best((answers, runs, cells.assign(proof="unverified"))).to_dict("records")
    assert (row["budget"], row["doubt"]) == (0.5, "unverified")
    (row,) = best((answers, runs, cells.assign(flags='["placebo: equal"]'))).to_dict("records")
    assert row["policy"] is None
    assert "left out, placebo?: snapkv 0.2, snapkv 0.5" in row["notes"]


def test_effects_compare_like_with_like_only(tmp_path):
    make_group(tmp_path, "seen", draw=lossless_to(0.2))
    make_group(tmp_path, "unseen", draw=lossless_to(0.5), kv={**LADDER, "question_aware": False})
    make_group(
        tmp_path,
        "tova",
        draw=lossless_to(1.0),
        examples="other",
        kv={**LADDER, "policies": ["tova"]},
    )
    every = tables(tmp_path)
    rows = effects(with_dials(*every), judged_arms(*every)).to_dict("records")
    by = {(r["dial"], r["at"], r["from"], r["to"]): r for r in rows if r["length"] == "all"}
    aware = by["question_aware", "snapkv 0.2", False, True]
    assert (aware["n"], aware["mean_from"], aware["mean_to"]) == (40, 0.0, 1.0)
    assert aware["ci_low"] > 0.2
    # tova was never asked what snapkv was asked, so no effect of the policy can be known
    assert not [key for key in by if key[0] == "policy"]
    assert by["budget", "snapkv, question unseen", 0.5, 0.2]["effect"] == -1
    assert by["budget", "snapkv", 0.5, 0.2]["effect"] == 0


def test_losses_are_against_the_own_control(tmp_path):
    make_group(tmp_path, draw=lossless_to(0.5))
    rows = effects(with_dials(*(every := tables(tmp_path))), judged_arms(*every))
    first = rows[(rows["dial"] == "control") & (rows["length"] == "all")]
    assert dict(zip(first["to"], first["effect"], strict=True)) == {
        "snapkv 0.5": 0,
        "snapkv 0.2": -1,
    }


@given(st.integers(0, 1000))
def test_rank_correlation_lies_in_its_interval_and_within_one(seed):
    rng = np.random.default_rng(seed)
    x = rng.random(40)
    y = x + rng.random(40) * rng.random()
    places = np.repeat(np.arange(10), 4)
    seen, low, high = rank_correlation(
        x.argsort().argsort() * 1.0, y.argsort().argsort() * 1.0, places, 0.05
    )
    assert -1 <= low <= seen <= high <= 1
    mirrored = rank_correlation(
        x.argsort().argsort() * 1.0, -y.argsort().argsort() * 1.0, places, 0.05
    )
    assert mirrored[0] == pytest.approx(-seen)


def test_catalog_newest_first_as_lines_and_csv(tmp_path):
    make_group(tmp_path, "one")
    make_group(tmp_path, "two")
    file = tmp_path / "catalog.csv"
    lines = kvbench("catalog", "--dir", tmp_path, "--csv", file).splitlines()
    assert lines[0].startswith("started (UTC)")
    assert {line.split()[2] for line in lines[1:3]} == {"one", "two"}
    assert max(map(len, lines)) <= 100
    rows = list(csv.DictReader(file.open()))
    assert [row["answers"] for row in rows] == ["120", "120"]


def test_the_runs_of_a_group_are_in_their_order_whatever_the_clock_said(tmp_path):
    make_group(tmp_path, "one")
    with Store(tmp_path / "one" / DATABASE) as store:
        (first,) = store.runs()
        for name, at in (("second", "2026-11-24"), ("third", "2026-11-23")):
            store.start_run(replace(first, run_id=name, started_at=at))
    with contextlib.closing(sqlite3.connect(tmp_path / "one" / DATABASE)) as db, db:
        db.execute("UPDATE experiments SET started_at = '2031-01-01' WHERE rowid = 1")
    runs = catalog(tables(tmp_path)[1])
    assert list(runs["run_id"]) == ["third", "second", "run-one"]


FORMULAS = ["=1+1", "+a", "-0.5", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", "a\r=1"]


@given(texts=st.lists(st.one_of(st.sampled_from(FORMULAS), st.text(max_size=5)), min_size=1))
def test_no_text_in_a_csv_is_a_formula_and_numbers_stay(texts):
    numbers = [(-0.5) ** n for n in range(len(texts))]
    mixed = [-1, *texts[1:]]
    rows = pd.DataFrame({"text": texts, "number": numbers, "mixed": mixed})
    rows["whole"] = pd.array([-7, *[None] * (len(texts) - 1)], "Int64")
    found = list(csv.DictReader(io.StringIO(csv_text(rows), newline="")))
    assert [float(row["number"]) for row in found] == numbers
    assert (found[0]["mixed"], found[0]["whole"]) == ("-1", "-7")
    for row, text in zip(found, texts, strict=True):
        assert row["text"] in (text, f"'{text}")  # nor did it make rows or cells of its own
        assert row["text"].lstrip()[:1] not in tuple("=+-@\uff1d")
        assert row["text"][:1] not in tuple("\t\r\n")
    assert all(text not in (row["text"] for row in found) for text in FORMULAS[:-1])


def test_every_csv_is_written_so(tmp_path):
    make_group(tmp_path, "one", description="=1", kv={**LADDER, "policies": ["snapkv"]})
    with sqlite3.connect(tmp_path / "one" / DATABASE) as db:
        db.execute("UPDATE answers SET text='=HYPERLINK(\"http://x\")'")
        db.execute("UPDATE experiments SET command='-pytest'")
    folder = tmp_path / "csv"
    for words in (
        ("export", "--csv", folder),
        *((name, "--csv", folder / f"{name}.csv") for name in ("catalog", "best", "effects")),
    ):
        kvbench(*words, "--dir", tmp_path)
    cells = [
        cell
        for file in sorted(folder.glob("*.csv"))
        for row in csv.reader(file.open(newline=""))
        for cell in row
    ]
    assert {"'-pytest", '\'=HYPERLINK("http://x")'} <= set(cells)
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")]


def test_insights_have_a_section_a_model_and_every_table(tmp_path):
    make_group(tmp_path, "one", kv={**LADDER, "policies": ["snapkv", "tova"]})
    kvbench("insights", "--dir", tmp_path)
    said = (tmp_path / "INSIGHTS.md").read_text(encoding="utf-8")
    for heading in (
        "## Basis",
        "## Model `smollm2-135m`",
        "### Smallest budget that holds",
        "### Treated minus control on `jsonl:words.jsonl`",
        "### Effect of each dial, like for like",
    ):
        assert heading in said
    assert "1 group, 1 run, 200 answers and 0 failures" in said


def test_effects_and_insights_of_one_control_alone(tmp_path):
    make_group(tmp_path, kv={"policies": ["snapkv"], "budgets": [1.0, 0.5]}, per_bin=3)
    (_, *lines) = kvbench("effects", "--dir", tmp_path).splitlines()
    assert {line.split()[0] for line in lines} == {"control"}
    kvbench("insights", "--dir", tmp_path)


# -- exports -------------------------------------------------------------------------------------


def test_csv_parquet_and_inspect(tmp_path):
    make_group(tmp_path / "r")
    kvbench(
        "export", "--dir", tmp_path / "r", "--csv", tmp_path / "csv",
        "--parquet", tmp_path / "pq", "--inspect", tmp_path / "logs",
    )  # fmt: skip
    assert sum(1 for _ in csv.DictReader((tmp_path / "csv" / "answers.csv").open())) == 120
    assert len(frame(tmp_path / "pq", "answers")) == 120
    logs = [json.loads(p.read_text()) for p in sorted((tmp_path / "logs").glob("*.json"))]
    assert len(logs) == 3
    control = next(log for log in logs if log["eval"]["task_args"]["policy"] == "none")
    assert control["version"] == 2
    assert len(control["samples"]) == 40
    mean = control["results"]["scores"][0]["metrics"]["mean"]["value"]
    values = [s["scores"]["any_of"]["value"] for s in control["samples"]]
    assert mean == pytest.approx(sum(values) / 40)


def test_an_export_must_say_what(tmp_path):
    done = CliRunner().invoke(main, ["export", "--dir", str(tmp_path)])
    assert done.exit_code == 2
    assert "say what" in done.stderr


def test_a_group_without_answers_ends_no_export_of_all(tmp_path):
    make_group(tmp_path / "r", "sound", per_bin=4, bins=1)
    make_group(tmp_path / "r", "void", per_bin=4, bins=1)
    with sqlite3.connect(tmp_path / "r" / "void" / DATABASE) as db:
        for table in ("scores", "telemetry", "answers"):
            db.execute(f"DELETE FROM {table}")
    (tmp_path / "r" / "torn").mkdir()
    (tmp_path / "r" / "torn" / DATABASE).write_bytes(b"nonsense" * 100)
    every = ["--dir", str(tmp_path / "r"), "--artifacts", str(tmp_path / "arms")]
    done = CliRunner().invoke(main, ["export", *every])
    assert done.exit_code == 0, done.output
    assert "2 arms of sound" in done.output
    assert "void: left out: group void: nothing has been answered yet" in done.stderr
    assert "torn: left out: " in done.stderr
    assert CliRunner().invoke(main, ["export", "void", *every]).exit_code == 4


def test_the_engines_own_dtype_is_a_dial_and_no_other_word(tmp_path):
    """`declared` holds what a user says of a server, which may be a dtype too."""
    engine = {"declared": {"dtype": "float16"}, "dtype": "bfloat16"}
    runs = pd.DataFrame(
        {
            "run_id": ["a", "b", "c"],
            "group": ["x", "x", "x"],
            "snapshot": [
                json.dumps({"engine": engine, "kv": {"params": {"x": {"dtype": "int8"}}}}),
                json.dumps({"engine": {"declared": {"dtype": "float16"}, "dtype": None}}),
                json.dumps({}),
            ],
        }
    )
    cell = dict.fromkeys(("group", "task", "bin", "variant", "policy"), "x") | {"budget": 1.0}
    said = {"sampling": "{}", "tokens": 9.0, "score": 1.0, "aa": False, "elected": True, **cell}
    answers = pd.DataFrame({"run_id": ["a", "b", "c"], **said})
    cells = pd.DataFrame([{**cell, "budget": 0.5, "reason": "", "verdict_holm": "not-measured"}])
    assert list(with_dials(answers, runs, cells)["dtype"]) == ["bfloat16", "null", "null"]
