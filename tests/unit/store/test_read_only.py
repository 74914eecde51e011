"""Who may only read a folder of groups can read it, and changes nothing there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import StoreError
from pytest_kvbench.store.archive import verify_archive
from pytest_kvbench.store.outstanding import Outstanding
from pytest_kvbench.store.store import DATABASE, Store
from tests.support.as_reader import another_user, open_to_all, reader_of, tree
from tests.support.groups import make_group
from tests.unit.store.test_store import MANIFEST, answer, request


@pytest.fixture(scope="module")
def reports() -> Iterator[Path]:
    with open_to_all() as place:
        for group in ("one", "two"):
            make_group(place / "reports", group, per_bin=6, bins=1)
        done = kvbench(place, "analyse", "one", "--dry-run", "--to", place / "reports")
        assert done.exit_code == 0, done.output
        for words in COMMANDS.values():  # nobody may find no Python to import later
            kvbench(place, *(word.replace("OUT", str(place / "out")) for word in words))
        shutil.rmtree(place / "reports" / "_aggregate")
        yield place / "reports"


def kvbench(place: Path, *args: object) -> Result:
    words = [str(arg) for arg in args]
    return CliRunner().invoke(main, [*words, "--dir", str(place / "reports")])


COMMANDS = {
    "compare": ("compare", "one", "two"),
    "analyse": ("analyse", "one", "--dry-run", "--set", "gate.margin=0.2"),
    "catalog": ("catalog",),
    "best": ("best",),
    "effects": ("effects",),
    "archive": ("archive", "one", "--to", "OUT/a.kvbench.tar.gz"),
    "aggregate": ("aggregate", "--data", "OUT/data"),
    "export": ("export", "--csv", "OUT/csv", "--inspect", "OUT/logs"),
    "report": ("report", "one", "--to", "OUT/page"),
    "insights": ("insights", "--to", "OUT/INSIGHTS.md"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_reads_and_changes_nothing(name: str, reports: Path) -> None:
    before = tree(reports)
    with open_to_all() as out:
        out.chmod(0o777)
        with reader_of(reports):
            words = [word.replace("OUT", str(out)) for word in COMMANDS[name]]
            done = kvbench(reports.parent, *words)
        assert done.exit_code == 0, (done.output, done.exception)
        assert tree(reports) == before
        if name == "archive":
            assert verify_archive(out / "a.kvbench.tar.gz").group == "one"
        if name == "report":
            assert (out / "page" / "one" / "report.md").exists()


def test_a_reader_who_would_write_is_told_in_two_lines(reports: Path) -> None:
    before = tree(reports)
    with reader_of(reports):
        said = [kvbench(reports.parent, *words) for words in (("score", "two"), ("aggregate",))]
    assert [done.exit_code for done in said] == [10, 10]
    assert all(done.output.count("\n") == 2 for done in said)
    assert tree(reports) == before


def test_nor_may_a_reader_bring_a_data_set_up_to_date(reports: Path) -> None:
    assert kvbench(reports.parent, "aggregate").exit_code == 0
    with reader_of(reports):
        done = kvbench(reports.parent, "aggregate")
    shutil.rmtree(reports / "_aggregate")
    assert done.exit_code == 10, done.exception
    assert "_aggregate: cannot be written" in done.output
    assert done.output.count("\n") == 2


@pytest.fixture
def place() -> Iterator[Path]:
    with open_to_all() as folder:
        with Store(folder / "g" / DATABASE) as store:
            store.save_manifest(MANIFEST, {})
            store.save_requests([request(n) for n in range(3)])
            store.save_answers([answer(request(0).key)])
        yield folder


def counted(place: Path) -> int:
    with Store(place / "g" / DATABASE, reads=True) as store:
        return store.count("answers")


def test_what_is_only_in_the_wal_is_read(place: Path) -> None:
    with Store(place / "g" / DATABASE) as writer:
        writer.save_answers([answer(request(1).key)])
        assert (place / "g" / f"{DATABASE}-wal").stat().st_size
        with reader_of(place):
            assert counted(place) == 2
        writer.save_answers([answer(request(2).key)])
        with reader_of(place):
            assert counted(place) == 3  # not what was copied before


def test_a_wal_left_by_a_dead_process_is_read(place: Path) -> None:
    path = place / "g" / DATABASE
    with Store(path) as writer:
        writer.save_answers([answer(request(1).key)])
        left = {kind: Path(f"{path}{kind}").read_bytes() for kind in ("", "-wal")}
    for kind, content in left.items():
        Path(f"{path}{kind}").write_bytes(content)
    with reader_of(place):
        assert counted(place) == 2
    assert Path(f"{path}-wal").read_bytes() == left["-wal"]


def test_a_wal_that_may_not_be_read_is_two_lines(place: Path) -> None:
    wal = place / "g" / f"{DATABASE}-wal"
    wal.write_bytes(b"something")
    wal.chmod(0)
    (place / "g").chmod(0o555)
    with another_user(), pytest.raises(StoreError, match="-wal: cannot be read") as caught:
        counted(place)
    assert str(caught.value).count("\n") == 1


def test_nothing_is_written_to_a_copy(place: Path) -> None:
    with (
        reader_of(place),
        Store(place / "g" / DATABASE, reads=True) as store,
        pytest.raises(StoreError, match="read-only"),
    ):
        store.save_answers([answer(request(1).key)])


def test_who_waits_needs_only_to_read(place: Path) -> None:
    waiting = Outstanding(request(n).key for n in range(3))
    with reader_of(place):
        found = waiting.look(place / "g" / DATABASE, "2020-01-01")
    waiting.close()
    assert (found.planned, found.answered, found.missing) == (3, 1, 2)
