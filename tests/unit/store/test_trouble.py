"""Databases in trouble: two lines with the way out, nothing overwritten, readable afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kvbench.errors import StoreError
from pytest_kvbench.store import database
from pytest_kvbench.store.store import DATABASE, SCHEMA_VERSION, Store
from tests.unit.store.test_store import MANIFEST, answer, request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / DATABASE) as store:
        store.save_manifest(MANIFEST, {})
        store.save_requests([request(n) for n in range(400)])
        store.save_answers([answer(request(0).key)])
    return tmp_path / DATABASE


def refused(action: Callable[[], object], what: str, hint: str) -> None:
    with pytest.raises(StoreError) as caught:
        action()
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "is empty"), (b"precious " * 100, "cannot be used as a database")]
)
def test_a_file_without_a_database_is_refused_and_kept(
    tmp_path: Path, content: bytes, what: str
) -> None:
    path = tmp_path / DATABASE
    path.write_bytes(content)
    refused(lambda: Store(path), what, "never overwritten")
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [DATABASE]


def test_a_foreign_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()
    refused(lambda: Store(path), "none of kvbench", "move the file away")
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_and_kept(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    refused(lambda: Store(path), f"schema version {SCHEMA_VERSION + 1}", "newer pytest-kvbench")


@pytest.mark.parametrize("older", range(1, SCHEMA_VERSION))
def test_an_older_schema_is_refused_and_kept(path: Path, older: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={older}")
    db.close()
    before = path.read_bytes()
    refused(lambda: Store(path), "made by an earlier, unreleased version", "run again")
    assert path.read_bytes() == before


def test_a_locked_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    with Store(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        refused(
            lambda: store.save_answers([answer(request(1).key)]),
            "another process holds it",
            "end that process",
        )
        assert store.count("answers") == 1  # readers go on
        holder.execute("ROLLBACK")
        store.save_answers([answer(request(1).key)])
        assert store.count("answers") == 2


def test_an_exclusively_locked_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    refused(lambda: Store(path), "another process holds it", "end that process")


def test_a_full_disk_loses_nothing_that_was_there(path: Path) -> None:
    with Store(path) as store:
        raw = store._db._db
        full = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count={full}")
        many = [answer(request(n).key, "x" * 5000) for n in range(1, 300)]
        refused(lambda: store.save_answers(many), "the disk is full", "what was answered stays")
        assert store.count("answers") == 1
        raw.execute("PRAGMA max_page_count=100000")
        store.save_answers(many)
        assert store.count("answers") == 300


def test_a_damaged_page_is_refused_and_kept(path: Path) -> None:
    content = path.read_bytes()
    damaged = content[:4096] + b"\xff" * (len(content) - 4096)
    path.write_bytes(damaged)

    def use() -> None:
        with Store(path) as store:
            store.check()

    refused(use, "it is damaged", "restore it from an archive")
    assert path.read_bytes() == damaged


def test_a_truncated_database_is_refused_and_kept(path: Path) -> None:
    content = path.read_bytes()[: 3 * 4096]
    path.write_bytes(content)

    def use() -> None:
        with Store(path) as store:
            store.answers([request(0).key])

    refused(use, "it is damaged", "never overwritten")
    assert path.read_bytes() == content


def test_a_sound_database_passes_the_check(path: Path) -> None:
    with Store(path) as store:
        store.check()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "g" / DATABASE
    refused(lambda: Store(path), "cannot be written", "make the folder writable")


def test_a_database_is_made_whole(tmp_path: Path) -> None:
    with Store(tmp_path / DATABASE) as store:
        mode = store._db._db.execute("PRAGMA journal_mode").fetchone()[0]
    assert mode == "wal"
    assert [p.name for p in tmp_path.iterdir()] == [DATABASE]


def test_a_new_database_opens_while_another_process_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing the mode of a file that others read fails at once, however long one would wait."""
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    path = tmp_path / DATABASE
    with Store(tmp_path / "other" / DATABASE) as made:
        path.write_bytes(made._db._schema.empty())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM answers").fetchone()
        with Store(path) as opened:
            opened.save_manifest(MANIFEST, {})


def test_a_copy_has_what_is_still_in_the_wal_and_is_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "g" / DATABASE
    copies = [tmp_path / name for name in "abc"]
    with Store(path) as store:
        store.save_manifest(MANIFEST, {})
        store.save_requests([request()])
        store.save_answers([answer(request().key)])
        assert path.with_name(f"{DATABASE}-wal").stat().st_size
        database.copy_database(path, copies[0])
        database.copy_database(path, copies[1])
    database.copy_database(path, copies[2])  # closed: the WAL is in the file now
    assert len({copy.read_bytes() for copy in copies}) == 1
    with Store(copies[0]) as store:
        assert store.count("answers") == 1


def test_a_flipped_bit_in_the_schema_is_damage_or_nothing(path: Path) -> None:
    """SQLite quotes what it cannot read, which Python then cannot decode."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        schema = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL")]
    whole = path.read_bytes()
    refusals: list[str] = []
    for sql in schema:
        start = whole.index(sql.encode())
        for place in range(start, start + len(sql), 9):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :])
            try:
                with Store(path) as store:
                    store.check()
            except StoreError as error:
                refusals.append(str(error))
    assert refusals
    assert all(len(refusal.splitlines()) == 2 for refusal in refusals)
