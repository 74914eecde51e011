"""Archives: what goes in comes out, and nothing that is hostile or damaged is believed."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_kvbench.errors import GuardError, KvbenchError, StoreError, UsageError
from pytest_kvbench.ops.archive import SUFFIX, archive_group, clean_group, restore_group
from pytest_kvbench.store.archive import Index, verify_archive
from pytest_kvbench.store.controls import SharedControls
from pytest_kvbench.store.presence import Presence
from pytest_kvbench.store.registry import Registry
from pytest_kvbench.store.store import DATABASE, Store
from tests.unit.store.test_store import MANIFEST, answer, request

DAY_S = 86400.0


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports" / "g"
    with Store(folder / DATABASE) as store:
        store.save_manifest(MANIFEST, {})
        store.save_requests([request(n) for n in range(3)])
        store.save_answers([answer(request(n).key) for n in range(3)])
    (folder / "plots").mkdir()
    (folder / "plots" / "a.png").write_bytes(b"picture")
    (folder / "summary.json").write_text("{}")
    (folder / ".prepare.lock").touch()
    return tmp_path / "reports"


@pytest.fixture
def controls(tmp_path: Path) -> Path:
    root = tmp_path / "cache" / "controls"
    shared = SharedControls(root)
    with shared.take("ours/b0", {"arm": {"model": "m"}}) as entry:
        entry.add([answer(request(0).key)])
    with shared.take("theirs/b0", {}) as entry:
        entry.add([answer("somebody else's")])
    return root


@pytest.fixture
def archive(reports: Path, controls: Path, tmp_path: Path) -> Path:
    return archive_group(reports / "g", controls, tmp_path / "a.tar.gz")[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_goes_in_comes_out(archive: Path, reports: Path, tmp_path: Path) -> None:
    root = tmp_path / "new-cache" / "controls"
    done = restore_group(archive, tmp_path / "new", root, trust=True)
    assert (done.folder, done.new, done.controls) == (tmp_path / "new" / "g", True, 1)
    assert sorted(contents(done.folder)) == [DATABASE, "plots/a.png", "summary.json"]
    assert (done.folder / "plots/a.png").read_bytes() == b"picture"
    with Store(done.folder / DATABASE) as store:
        assert store.count("answers") == 3
    restored = SharedControls(root)
    assert list(restored.registry()) == ["ours/b0"]
    with restored.take("ours/b0", {"arm": {"model": "m"}}) as entry:
        assert list(entry.answers.values()) == [answer(request(0).key)]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["g"]


def test_answers_still_in_the_wal_are_archived(
    reports: Path, controls: Path, tmp_path: Path
) -> None:
    with Store(reports / "g" / DATABASE) as busy:
        busy.save_requests([request(9)])
        busy.save_answers([answer(request(9).key)])
        path, index = archive_group(reports / "g", controls, tmp_path / "a.tar.gz")
    assert not [m.path for m in index.files if m.path.endswith(("-wal", "-shm", "lock"))]
    restore_group(path, tmp_path / "new", tmp_path / "c" / "controls")
    with Store(tmp_path / "new" / "g" / DATABASE) as store:
        assert store.count("answers") == 4


def test_controls_that_are_there_keep_their_answers(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "other" / "controls"
    with SharedControls(root).take("ours/b0", {"arm": {"model": "m"}}) as entry:
        entry.add([answer("already there")])
    restore_group(archive, tmp_path / "new", root, trust=True)
    assert Registry(root).read()["ours/b0"].answers == 2


def test_a_second_restore_changes_nothing(archive: Path, tmp_path: Path) -> None:
    there = (tmp_path / "new", tmp_path / "c" / "controls")
    restore_group(archive, *there)
    before = contents(tmp_path / "new")
    assert restore_group(archive, *there).new is False
    assert contents(tmp_path / "new") == before


def test_another_state_of_the_group_is_never_overwritten(
    archive: Path, reports: Path, controls: Path
) -> None:
    with Store(reports / "g" / DATABASE) as store:
        store.save_requests([request(7)])
    before = contents(reports)
    with pytest.raises(GuardError, match="never overwritten"):
        restore_group(archive, reports, controls)
    assert contents(reports) == before


def test_an_existing_file_is_not_replaced(archive: Path, reports: Path, controls: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        archive_group(reports / "g", controls, archive)
    assert archive.read_bytes() == before


# -- hostile -------------------------------------------------------------------------------------

Member = tuple[tarfile.TarInfo, bytes]
PAYLOAD = b"payload"


def plain(name: str, data: bytes = PAYLOAD, **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def pack(path: Path, members: list[Member], declared: list[str], **changes: Any) -> Path:
    import hashlib

    entry = {"bytes": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest(), **changes}
    files = [{"path": name, **entry} for name in declared]
    index = json.dumps({"schema": 1, "group": "g", "files": files}).encode()
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, data in [plain("index.json", index), *members]:
            tar.addfile(info, io.BytesIO(data))
    return path


GOOD = "group/summary.json"


@pytest.mark.parametrize(
    ("members", "declared", "what"),
    [
        ([plain("group/../../evil")], ["group/../../evil"], "group/../../evil"),
        ([plain("../evil")], [GOOD], "'../evil' leaves its folder"),
        ([plain("/tmp/evil")], [GOOD], "'/tmp/evil' leaves its folder"),
        ([plain("group\\..\\evil")], [GOOD], "leaves its folder"),
        (
            [plain("group/link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
            ["group/link"],
            "'group/link' is no plain file",
        ),
        (
            [plain("group/link", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
            ["group/link"],
            "'group/link' is no plain file",
        ),
        ([plain("group/dev", b"", type=tarfile.CHRTYPE)], [GOOD], "'group/dev' is no plain file"),
        ([plain("group/pipe", b"", type=tarfile.FIFOTYPE)], [GOOD], "is no plain file"),
        ([plain(GOOD), plain("group/more")], [GOOD], "'group/more' is not in the index"),
        ([plain(GOOD), plain(GOOD)], [GOOD], "is not in the index"),
        ([plain(GOOD)], [GOOD, "group/b"], "'group/b' is in the index and not in the archive"),
        ([plain(GOOD, b"tampered"[:7])], [GOOD], "has another sha256"),
        ([plain(GOOD, PAYLOAD * 2)], [GOOD], "has 14 bytes, declared are 7"),
        ([plain(GOOD)], [GOOD, GOOD], "make no sense"),
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[Member], declared: list[str], what: str
) -> None:
    path = pack(tmp_path / "evil.tar.gz", members, declared)
    with pytest.raises(StoreError) as caught:
        restore_group(path, tmp_path / "new" / "reports", tmp_path / "cache" / "controls")
    assert what in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert contents(tmp_path) == {"evil.tar.gz": path.read_bytes()}


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar.gz"
    bomb = tarfile.TarInfo("index.json")
    bomb.pax_headers = {"comment": "x" * 40_000_000}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(bomb)
    assert path.stat().st_size < 200_000
    with pytest.raises(StoreError, match="more than its index declares"):
        verify_archive(path)


def test_more_than_fits_is_refused_before_it_is_written(tmp_path: Path) -> None:
    path = pack(tmp_path / "big.tar.gz", [], [GOOD], bytes=10**18)
    with pytest.raises(StoreError, match="has room for"):
        restore_group(path, tmp_path / "new", tmp_path / "c" / "controls")


@pytest.mark.parametrize("group", ["..", ".", "a/b", "", "/abs", 7])
def test_a_group_name_is_a_folder_name(group: Any) -> None:
    with pytest.raises(ValueError, match=r"leaves its folder|make no sense"):
        Index.from_json({"schema": 1, "group": group, "files": []})


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", gzip.compress(b"no tar" * 200), gzip.compress(b"[" * 10_000)],
    ids=["empty", "text", "no tar", "no index"],  # gzip notes the time, and xdist compares ids
)
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(data)
    with pytest.raises(StoreError, match="no sound archive of kvbench"):
        verify_archive(path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_bit_restores_all_or_nothing(
    archive: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = archive.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    flipped = tmp_path / "flipped.tar.gz"
    flipped.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    try:
        index = verify_archive(flipped)
    except StoreError:
        return
    assert index == verify_archive(archive)  # a bit of gzip's own header, which nothing needs


# -- clean ---------------------------------------------------------------------------------------


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    for path in folder.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def clean(reports: Path, *, dry_run: bool = False) -> Any:
    return clean_group(reports / "g", reports, 30 * DAY_S, dry_run=dry_run)


def test_only_what_an_archive_holds_is_removed(reports: Path, controls: Path) -> None:
    age(reports / "g", 40)
    assert "no archive of it" in clean(reports).kept
    path, _ = archive_group(reports / "g", controls)
    assert path.name.endswith(SUFFIX)
    assert clean(reports, dry_run=True).archive == path
    assert (reports / "g" / DATABASE).exists()
    assert clean(reports).archive == path
    assert not (reports / "g").exists()
    restore_group(path, reports, controls)
    with Store(reports / "g" / DATABASE) as store:
        assert store.count("answers") == 3


def test_a_young_group_stays(reports: Path, controls: Path) -> None:
    archive_group(reports / "g", controls)
    done = clean(reports)
    assert (done.blocked, "days ago" in done.kept) == (False, True)


def test_a_group_that_somebody_asks_for_stays(reports: Path, controls: Path) -> None:
    archive_group(reports / "g", controls)
    asking = Presence(reports / "g")
    age(reports / "g", 40)
    assert (clean(reports).kept, clean(reports).blocked) == ("a run is at work on it", True)
    asking.close()
    assert clean(reports).archive


def change_a_file(folder: Path) -> None:
    (folder / "summary.json").write_text("[]")


def answer_one_more(folder: Path) -> None:
    with Store(folder / DATABASE) as store:
        store.save_requests([request(8)])


def add_a_link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/hostname")


@pytest.mark.parametrize("change", [change_a_file, answer_one_more, add_a_link])
def test_a_group_that_went_on_after_its_archive_stays(
    reports: Path, controls: Path, change: Callable[[Path], None]
) -> None:
    archive_group(reports / "g", controls)
    change(reports / "g")
    age(reports / "g", 40)
    done = clean(reports)
    assert done.blocked
    assert (reports / "g" / DATABASE).exists()


def test_a_damaged_archive_holds_nothing(reports: Path, controls: Path) -> None:
    path, _ = archive_group(reports / "g", controls)
    age(reports / "g", 40)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = clean(reports)
    assert done.blocked
    assert str(path) in done.kept
    assert (reports / "g" / DATABASE).exists()


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    for action in (
        lambda: archive_group(tmp_path / "x", tmp_path / "c"),
        lambda: clean_group(tmp_path / "x", tmp_path, 0, dry_run=False),
    ):
        with pytest.raises(KvbenchError, match="there is no group"):
            action()
