"""Killed at any moment: nothing half made looks whole, and the next run takes it away."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench import files
from pytest_kvbench.cli.stages import main
from pytest_kvbench.files import (
    UNFINISHED,
    is_unconfirmed,
    sweep,
    unfinished_file,
    unfinished_folder,
)
from pytest_kvbench.ops.archive import SUFFIX, archive_group, clean_group, restore_group
from pytest_kvbench.ops.targets import build
from pytest_kvbench.store.archive import verify_archive
from pytest_kvbench.store.store import DATABASE, Store
from tests.support.groups import make_group
from tests.support.killed import killed_at
from tests.unit.store.test_store import MANIFEST, answer, request

MOMENTS = 12


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with Store(tmp_path / "reports" / "g" / DATABASE) as store:
        store.save_manifest(MANIFEST, {})
        store.save_requests([request(n) for n in range(3)])
        store.save_answers([answer(request(n).key) for n in range(3)])
    (tmp_path / "reports" / "g" / "plots").mkdir()
    (tmp_path / "reports" / "g" / "plots" / "a.png").write_bytes(b"picture")
    return tmp_path / "reports"


def moments(action: Callable[[], object], undo: Callable[[], object]) -> Iterator[int]:
    """Kill the action at steps that are spread over all of it."""
    last = 1
    while killed_at(last, action):
        yield last
        undo()
        last *= 2
    undo()
    for n in range(MOMENTS):
        step = n * last // MOMENTS
        if killed_at(step, action):
            yield step
        undo()


def left(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob(f"{UNFINISHED}*")]


def test_an_archive_is_whole_or_not_there(reports: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / f"g{SUFFIX}"

    def make() -> None:
        archive_group(reports / "g", tmp_path / "controls", target)

    killed, seen = 0, 0
    for _ in moments(make, lambda: target.unlink(missing_ok=True)):
        killed += 1
        seen += bool(left(tmp_path))
        names = [p.name for p in target.parent.glob("*")] if target.parent.exists() else []
        assert all(name == target.name or name.startswith(UNFINISHED) for name in names)
        if target.exists():
            assert verify_archive(target).group == "g"
    assert killed >= MOMENTS
    assert seen
    target.unlink(missing_ok=True)
    make()
    assert not left(tmp_path)


def test_a_group_is_restored_whole_and_marked_or_not_at_all(reports: Path, tmp_path: Path) -> None:
    path, index = archive_group(reports / "g", tmp_path / "controls", tmp_path / "a.tar.gz")
    there = tmp_path / "there"

    def bring() -> None:
        restore_group(path, there, tmp_path / "controls")

    killed = 0
    for _ in moments(bring, lambda: shutil.rmtree(there / "g", ignore_errors=True)):
        killed += 1
        groups = [p.parent.name for p in there.glob(f"*/{DATABASE}")]
        assert groups in ([], ["g"])
        if (there / "g").exists():
            assert is_unconfirmed(there / "g")
            assert set(index.below("group")) <= {
                p.relative_to(there / "g").as_posix() for p in (there / "g").rglob("*")
            }
    assert killed >= MOMENTS
    shutil.rmtree(there / "g", ignore_errors=True)
    bring()
    assert not left(tmp_path)
    assert [p.name for p in there.iterdir()] == ["g"]


def test_a_group_is_removed_whole_or_stays(reports: Path, tmp_path: Path) -> None:
    archive_group(reports / "g", tmp_path / "controls")
    shutil.copytree(reports / "g", tmp_path / "g")
    files_of = {p.relative_to(tmp_path) for p in (tmp_path / "g").rglob("*")}

    def remove() -> None:
        clean_group(reports / "g", reports, 0, dry_run=False)

    def again() -> None:
        shutil.rmtree(reports / "g", ignore_errors=True)
        shutil.copytree(tmp_path / "g", reports / "g")

    half = 0
    for _ in moments(remove, again):
        if (reports / "g").exists():
            assert files_of <= {p.relative_to(reports) for p in (reports / "g").rglob("*")}
        else:
            half += 1
        assert [p.parent.name for p in reports.glob(f"*/{DATABASE}")] in ([], ["g"])
    assert half, "no moment was within the removal"
    again()
    remove()
    assert not left(tmp_path)


def test_a_folder_of_a_run_is_whole_or_not_there(reports: Path, tmp_path: Path) -> None:
    prepared = make_group(tmp_path / "more", per_bin=2, bins=1)
    build([prepared], tmp_path / "warm")
    whole = {p.name for p in (tmp_path / "warm").glob("targets/tgt_*/run_*/*")}
    target = tmp_path / "arms"

    for step in range(0, 60, 6):
        killed_at(step, lambda: build([prepared], target))
        for folder in target.glob("targets/tgt_*/run_*"):
            assert {p.name for p in folder.iterdir()} == whole
    build([prepared], target)
    assert not left(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    for step in range(8):
        killed_at(step, lambda: files.replace_text(path, "new" * 100))
        assert path.read_text() in ("old", "new" * 100)
        assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(UNFINISHED)} == {
            path.name
        }
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_a_living_process_makes_is_left_alone(tmp_path: Path) -> None:
    with unfinished_file(tmp_path) as file, unfinished_folder(tmp_path) as folder:
        sweep(tmp_path)
        assert file.exists()
        assert folder.exists()
    assert not list(tmp_path.iterdir())


def test_errors_inside_reach_whoever_asked(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), unfinished_file(tmp_path):
        raise BlockingIOError
    assert not list(tmp_path.iterdir())


def test_a_run_takes_away_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stray = tmp_path / "reports" / "g" / "plots" / f"{UNFINISHED}abc"
    stray.parent.mkdir(parents=True)
    stray.write_text("half")
    Path("w.jsonl").write_text('{"question": "q", "context": "c", "answers": ["a"]}\n')
    Path("exp.yaml").write_text(
        "group: g\ntasks: ['jsonl:w.jsonl']\nbins: {n: 1, per_bin: 1}\ntokenizer: approximate\n"
        "engine: {model: mock, base_url: 'http://127.0.0.1:9/v1', retries: 0}\n"
    )
    done = CliRunner().invoke(main, ["prepare", "exp.yaml"])
    assert done.exit_code == 0, done.output
    assert not stray.exists()
