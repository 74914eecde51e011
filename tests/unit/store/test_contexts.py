"""Contexts of stored examples: read a few at a time, and nothing stays open for them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pytest_kvbench.errors import StoreError
from pytest_kvbench.records import Example
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.store.database import Database
from pytest_kvbench.store.store import DATABASE, Store

CONTEXTS = {f"e{n}": f"{n} " * 1_000 for n in range(70)}
ENTRIES = tuple(
    ManifestEntry(Example(name, "q", context, ("gold",)), 0, 5, "sha", 8)
    for name, context in CONTEXTS.items()
)


@pytest.fixture
def entries(tmp_path: Path) -> tuple[ManifestEntry, ...]:
    """As they are read again, by a store that was closed since."""
    with Store(tmp_path / DATABASE) as store:
        bins = (Bin(0, 0, None),)
        store.save_manifest(TaskManifest("task", "any_of", "v", "tok", bins, ENTRIES), {})
    with Store(tmp_path / DATABASE, reads=True) as store:
        stored = store.manifest("task")
    assert stored is not None
    return stored[0].entries


def test_in_order_a_few_readings_give_all(
    entries: tuple[ManifestEntry, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, again = [], Database.again
    monkeypatch.setattr(Database, "again", lambda d: opened.append(d) or again(d))
    for _ in range(2):  # of one example several requests are sent
        found = {e.example.example_id: e.example.context for e in entries for _ in range(3)}
        assert found == CONTEXTS
    assert len(opened) <= 2 * 3
    assert {file.name for file in tmp_path.iterdir()} == {DATABASE}


def test_in_any_order_each_has_its_own(entries: tuple[ManifestEntry, ...]) -> None:
    for entry in random.Random(1).sample(entries, len(entries)):
        assert entry.example.context == CONTEXTS[entry.example.example_id]


def test_a_database_that_is_gone_is_said(
    entries: tuple[ManifestEntry, ...], tmp_path: Path
) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 100)
    with pytest.raises(StoreError):
        _ = entries[0].example.context
