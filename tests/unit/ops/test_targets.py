"""The content-addressed store: what it is given decides names and bytes, and nothing else does."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace

import pandas as pd
import pytest
from click.testing import CliRunner

from pytest_kvbench import hints
from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.posteriors import entry_of
from pytest_kvbench.ops.sealed import sealed
from pytest_kvbench.ops.target_store import RunStore, text_of
from pytest_kvbench.ops.targets import build
from tests.support.groups import make_group

SMALL = {"per_bin": 6, "bins": 2}


def kvbench(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def files(root):
    """All files by path, but for those of times."""
    return {
        path.relative_to(root): path.read_bytes()
        for path in sorted(root.rglob("*.json*"))
        if path.name != "timings.json"
    }


def test_a_store_built_twice_has_the_same_bytes_and_lacks_nothing_after_a_loss(tmp_path):
    prepared = make_group(tmp_path / "reports", **SMALL)
    assert len(build([prepared], tmp_path / "runs").made) == 2
    first = files(tmp_path / "runs")
    again = build([prepared], tmp_path / "runs")
    assert (again.made, len(again.known)) == ((), 2)
    assert build([prepared], tmp_path / "other").made
    assert files(tmp_path / "other") == first
    lost = next((tmp_path / "runs").glob("targets/tgt_*/run_*"))
    shutil.rmtree(lost)
    assert build([prepared], tmp_path / "runs").made == (lost.name,)
    assert files(tmp_path / "runs") == first
    catalog = (tmp_path / "runs/targets/_catalog.jsonl").read_text().splitlines()
    assert len(catalog) == len({json.loads(line)["id"] for line in catalog}) == 3
    target = next((tmp_path / "runs/targets").glob("tgt_*"))
    assert len(target.name) == len("tgt_") + 64
    assert len((target / "_runs.jsonl").read_text().splitlines()) == 2
    assert len((target / "control.jsonl").read_text().splitlines()) == 12
    meta = json.loads((target / "meta.json").read_text())
    assert {"config", "code", "dims", "metrics"} <= meta.keys()


def test_an_arm_has_the_same_bytes_whatever_its_group_is_called_or_asks_beside(tmp_path):
    one = make_group(tmp_path, "one", kv={"policies": ["snapkv"], "budgets": [1.0, 0.5]}, **SMALL)
    kv = {"policies": ["snapkv", "tova"], "budgets": [1.0, 0.5, 0.2]}
    two = make_group(tmp_path, "two", kv=kv, **SMALL)
    other = make_group(tmp_path, "other", examples="other", **SMALL)
    assert len(build([one], tmp_path / "a").made) == 1
    build([two], tmp_path / "b")
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    run = {path: data for path, data in a.items() if not path.name.startswith("_")}
    assert run
    assert run.items() <= b.items()
    assert not set(build([other], tmp_path / "b").known)


def test_variant_and_rules_are_in_the_name_and_figures_are_the_arms_own(tmp_path):
    prepared = make_group(
        tmp_path / "reports",
        draw=lambda cell, i, rng: float(cell.policy == "none" or cell.variant == "terse"),
        variants={"plain": {}, "terse": {"after": " In one word."}},
        kv={"policies": ["snapkv"], "budgets": [1.0, 0.5]},
        bins=1,
        per_bin=60,
    )
    build([prepared], tmp_path / "runs")
    rows = RunStore(tmp_path / "runs").frame()
    assert rows["target"].nunique() == rows["id"].nunique() == 2
    assert sorted(zip(rows["mean"], rows["verdict"], strict=True)) == [(0, "breaks"), (1, "holds")]
    words = ["targets", "g", "--dir", tmp_path / "reports", "--runs", tmp_path / "runs"]
    assert "0 runs made, 2 there already" in kvbench(*words).stdout
    done = kvbench(*words, "--set", "gate.margin=0.01", "--csv", tmp_path / "runs.csv")
    assert "2 runs made, 0 there already" in done.stdout, done.output
    strict = pd.read_csv(tmp_path / "runs.csv").query("margin == 0.01")
    assert set(strict["verdict"]) == {"breaks", "undetermined"}
    assert len(rows) + len(strict) == 4


def test_an_arm_without_all_its_answers_is_left_for_later(tmp_path):
    prepared = make_group(tmp_path, per_bin=4)
    with sqlite3.connect(prepared.database) as db:
        query = "SELECT key FROM requests JOIN arms USING (arm_id) WHERE budget = 0.2"
        key = db.execute(query).fetchone()[0]
        for table in ("scores", "telemetry", "answers"):
            db.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
    db.close()
    done = build([prepared], tmp_path / "runs")
    assert (len(done.made), done.incomplete) == (1, ("snapkv 0.2",))


def test_key_figures_are_promoted_and_posteriors_have_their_place(tmp_path):
    build([make_group(tmp_path / "reports", **SMALL)], tmp_path / "runs")
    store = RunStore(tmp_path / "runs")
    place = tmp_path / "runs/posteriors/post_nuts_0123456789abcdef"
    (place / "diagnostics").mkdir(parents=True)
    (place / "diagnostics/trace.png").write_bytes(b"png")
    checks = {"r_hat": 1.0, "ess_bulk": 900.0, "ess_tail": 800.0, "divergent": 0.0}
    config = {
        "model": "m",
        "targets": ["tgt_1", "tgt_2"],
        "margin": 0.1,
        "curves": [{"task": "t", "pairs": 7}],
        "sampling": {"sampler": "nuts", "seed": 1},
    }
    analysis = {"config": config, "diagnostics": checks, "statements": []}
    (place / "analysis.json").write_text(json.dumps(analysis))
    (place / "timings.json").write_text('{"wall_s": 1.0}')
    seal(place, analysis)
    store.index()
    lines = (tmp_path / "runs/targets/_catalog.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["target", "run", "run", "posterior"]
    rows = store.frame().set_index("id")
    assert rows.loc[place.name, ["policy", "ess", "rhat"]].tolist() == ["nuts", 900, 1]
    assert rows.loc[place.name, ["target", "model", "n"]].tolist() == ["tgt_1,tgt_2", "m", 7]
    words = ["promote", place.name[:12], "--runs", tmp_path / "runs", "--to", tmp_path / "results"]
    assert kvbench(*words).exit_code == 0
    assert list(pd.read_csv(tmp_path / "results/figures.csv")["id"]) == [place.name]
    assert (tmp_path / "results" / place.name / "diagnostics/trace.png").read_bytes() == b"png"
    unknown = kvbench("promote", "run_x", "--runs", tmp_path / "runs")
    assert unknown.exit_code == 4
    assert "no run in" in unknown.stderr
    assert all(name in unknown.stderr for name in rows.index)


def seal(place, analysis):
    files = {name: (place / name).read_bytes() for name in ("analysis.json",)}
    (place / "meta.json").write_text(text_of(sealed(entry_of(place.name, analysis), files)))


DAMAGES = {
    "answers.jsonl": lambda file: file.unlink(),
    "analysis.json": lambda file: file.write_text("garbage"),
    "meta.json": lambda file: file.write_text(file.read_text().replace('"mean": ', '"mean": 1')),
    "timings.json": lambda file: file.write_text("{"),
    "../control.jsonl": lambda file: file.write_text(file.read_text()[:-9]),
    "../meta.json": lambda file: file.write_bytes(b"\xff"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_found_and_made_again_and_gives_no_figures(tmp_path, name):
    prepared = make_group(tmp_path / "reports", **SMALL)
    root = tmp_path / "runs"
    build([prepared], root)
    first = files(root)
    run = sorted(root.glob("targets/tgt_*/run_*"))[0]
    file = (run / name).resolve()
    DAMAGES[name](file)
    wanted = run.name if ".." not in name else run.parent.name
    refused = kvbench("promote", wanted, "--runs", root, "--to", tmp_path / "results")
    assert refused.exit_code != 0
    assert f"{file.parent}: is damaged: {file.name}" in refused.stderr
    assert not (tmp_path / "results").exists()
    assert file.parent.name not in [entry["id"] for entry in RunStore(root).entries()]
    done = kvbench("targets", "g", "--dir", tmp_path / "reports", "--runs", root)
    made = 0 if ".." in name else 1
    assert f"{hints.count(made, 'run')} made, {2 - made} there already" in done.stdout, done.output
    assert f"{file.parent.name}: was damaged ({file.name}" in done.stdout
    assert files(root) == first
    assert RunStore(root).damaged() == {}


def test_what_is_damaged_and_cannot_be_made_again_is_named_and_left_out(tmp_path):
    build([make_group(tmp_path / "reports", **SMALL)], tmp_path / "runs")
    make_group(tmp_path / "reports", "other", examples="other", **SMALL)
    run = sorted((tmp_path / "runs").glob("targets/tgt_*/run_*"))[0]
    (run / "answers.jsonl").write_text("")
    done = kvbench("targets", "other", "--dir", tmp_path / "reports", "--runs", tmp_path / "runs")
    assert f"{run}: is damaged (answers.jsonl was changed), left out of the catalog" in done.stderr
    assert run.name not in (tmp_path / "runs/targets/_catalog.jsonl").read_text()


@pytest.mark.slow
def test_parsls_workers_build_the_same_bytes(tmp_path):
    group = make_group(tmp_path / "reports", **SMALL)
    build([replace(group)], tmp_path / "here")
    words = ["targets", "g", "--dir", tmp_path / "reports", "--runs", tmp_path / "there"]
    parsl = ["--set", "executor.name=parsl", "--set", "executor.workers=2"]
    done = kvbench(*words, *parsl)
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "there") == files(tmp_path / "here")
    lost = next((tmp_path / "there").glob("targets/tgt_*/run_*"))
    shutil.rmtree(lost)
    assert "1 run made, 1 there already" in kvbench(*words, *parsl).stdout
    assert files(tmp_path / "there") == files(tmp_path / "here")
