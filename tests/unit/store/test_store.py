"""The database: constraints, concurrency, resume."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from pytest_kvbench.errors import StoreError
from pytest_kvbench.records import (
    Answer,
    Arm,
    Example,
    Failure,
    Prompt,
    Request,
    Sampling,
    Score,
    Telemetry,
    canonical,
)
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.store.store import DATABASE, RunRow, Store

ARM = Arm("local", "m", "f", "snapkv", 0.2, Sampling(), "t")
EXAMPLE = Example("e", "q", "c", ("gold",), {"depth": 0.5})
MANIFEST = TaskManifest(
    "task",
    "any_of",
    "v",
    "tok",
    (Bin(0, 0, 10), Bin(1, 10, None)),
    (ManifestEntry(EXAMPLE, 0, 5, "sha", 8),),
)


def request(replicate: int = 0) -> Request:
    return Request(ARM, "task", 0, "e", replicate, Prompt("h", "t", 8))


def answer(key: str, text: str = "gold") -> Answer:
    return Answer(key, text, "stop", Telemetry(1.0, achieved=0.2))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / DATABASE)
    store.save_manifest(MANIFEST, {"seed": 1})
    store.save_requests([request(r) for r in range(4)])
    return store


def test_manifest_round_trip(store: Store) -> None:
    assert store.manifest("task") == (MANIFEST, {"seed": 1})
    assert store.manifest("other") is None


def test_replacing_a_manifest_keeps_old_examples_and_answers(store: Store) -> None:
    store.save_answers([answer(request().key)])
    other = Example("e2", "q", "c2", ("gold",))
    store.save_manifest(
        TaskManifest(
            "task", "f1", "v", "tok", (Bin(0, 0, 10),), (ManifestEntry(other, 0, 5, "sha", 8),)
        ),
        {},
    )
    assert store.answered([request().key]) == {request().key}
    assert store.count("examples") == 2


@pytest.mark.parametrize(
    "column",
    [
        *("experiments.snapshot", "experiments.fingerprint", "prepared.snapshot"),
        *("datasets.selection", "examples.meta", "examples.answers", "scores.parts"),
        "verdicts.payload",
    ],
)
def test_json_with_a_flipped_bit_is_damage_and_no_surprise(store: Store, column: str) -> None:
    key = request().key
    store.start_run(RunRow("r", {"group": "g"}, {"model": "m"}, 0, "pytest", "2026"))
    store.save_prepared({"group": "g"})
    store.save_answers([answer(key)])
    store.save_scores([(key, "any_of", Score(1.0, 1.0, "CORRECT", {"f1": 1.0}))])
    table, name = column.split(".")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        row = canonical({"task": "task", "bin": "0", "variant": "", "policy": "p", "budget": 0.2})
        verdict = ("task", "0", "", "p", 0.2, "score", 0.0, "holds", row.decode())
        db.execute("INSERT INTO verdicts VALUES (?,?,?,?,?,?,?,?,?)", verdict)
        whole = db.execute(f"SELECT {name} FROM {table}").fetchone()[0].encode()
        refused = 0
        for bit in range(8 * len(whole)):
            place, mask = bit // 8, 1 << bit % 8
            flipped = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
            db.execute(f"UPDATE {table} SET {name} = CAST(? AS TEXT)", (flipped,))
            refused += _is_refused(store, key)
    assert refused > len(whole)


def _is_refused(store: Store, key: str) -> bool:
    """By any reader of what is JSON: nothing but its own error comes of it."""
    found: list[StoreError] = []
    try:
        store.runs()
        store.prepared()
        store.manifest("task")
        store.outcomes([key])
        list(store.unscored([key], "keep"))
        store.contents.metas()
        store.contents.cells()
    except StoreError as error:
        found.append(error)
    assert all("kvbench.sqlite: " in one.what and "\n" not in one.what for one in found)
    return bool(found)


def test_answers_come_back_whole(store: Store) -> None:
    given = answer(request().key)
    store.save_answers([given])
    assert store.answers([request().key, "unknown"]) == {given.key: given}


def test_the_first_answer_stays(store: Store) -> None:
    key = request().key
    store.save_answers([answer(key, "first")])
    store.save_answers([answer(key, "second")])
    assert store.answers([key])[key].text == "first"


def test_an_answer_ends_a_failure_and_no_failure_follows_an_answer(store: Store) -> None:
    key = request().key
    store.save_failures([Failure(key, "TIMEOUT", "slow"), Failure(key, "ENGINE_ERROR", "500", 3)])
    assert store.outcomes([key])[key].failure == "ENGINE_ERROR"
    store.save_answers([answer(key)])
    assert store.count("failures") == 0
    with pytest.raises(StoreError, match="has an answer"):
        store.save_failures([Failure(key, "TIMEOUT", "slow")])


def test_an_answer_needs_a_request(store: Store) -> None:
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.save_answers([answer("nobody asked")])


def test_all_or_none(store: Store) -> None:
    with pytest.raises(StoreError):
        store.save_answers([answer(request().key), answer("nobody asked")])
    assert store.count("answers") == 0


def test_unscored_follows_the_metric(store: Store) -> None:
    key = request().key
    store.save_answers([answer(key)])
    (row,) = store.unscored([key], "strip")
    assert (row.metric, row.answers, row.meta, row.context) == (
        "any_of",
        ("gold",),
        {"depth": 0.5},
        "c",
    )
    store.save_scores([(key, "any_of", Score(1.0, 1.0))])
    assert list(store.unscored([key], "strip")) == []
    assert len(list(store.unscored([key], "keep"))) == 1, "made under another rule"
    store.save_scores([(key, "older_metric", Score(1.0, 1.0))])
    assert len(list(store.unscored([key], "strip"))) == 1


def test_more_keys_than_fit_one_query(store: Store) -> None:
    keys = [f"k{n}" for n in range(3000)]
    assert store.answered([*keys, request().key]) == set()


def test_runs_and_replicates(store: Store) -> None:
    run = RunRow("r1", {"a": 1}, {"w": "x"}, 0, "pytest", "2026-01-01")
    store.start_run(run)
    store.start_run(RunRow("r1", {"a": 2}, {}, 5, "again", "2027-01-01"))
    store.finish_run("r1", "2026-01-02")
    (stored,) = store.runs()
    assert (stored.snapshot, stored.finished_at) == ({"a": 1}, "2026-01-02")
    assert store.next_replicate() == 4


def _write(path: Path, first: int) -> None:
    with Store(path) as store:
        for n in range(first, first + 50):
            store.save_requests([request(n)])
            store.save_answers([answer(request(n).key)])


def test_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with Store(path) as store:
        store.save_manifest(MANIFEST, {})
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, 50 * n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    with Store(path) as store:
        assert store.count("answers") == 150


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    path.write_text("precious " * 100)
    with pytest.raises(StoreError, match="never overwritten"):
        Store(path)
    assert path.read_text() == "precious " * 100


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer"):
        Store(tmp_path / DATABASE)


def test_parts_of_a_score_round_trip(store: Store) -> None:
    key = request().key
    store.save_answers([answer(key)])
    store.save_scores([(key, "credited", Score(0.0, 1.0, parts={"correct": 1.0, "cited": 0.0}))])
    assert store.outcomes([key])[key].parts == {"correct": 1.0, "cited": 0.0}


def test_an_arm_keeps_the_addresses_it_was_asked_at(store: Store) -> None:
    arm = request().arm
    for base_url in (None, "http://127.0.0.1:1/v1", None):
        store.save_arms([(arm, base_url)])
    with sqlite3.connect(store.path) as db:
        found = db.execute("SELECT base_url FROM arms WHERE arm_id=?", (arm.arm_id,)).fetchall()
    assert found == [("http://127.0.0.1:1/v1",)]
