"""Shared controls: whatever happens to their files is noticed, and no sound answer is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_kvbench.errors import StoreError
from pytest_kvbench.records import Answer, Arm, Sampling, Telemetry
from pytest_kvbench.store.control_file import FILE, line_of, read_content
from pytest_kvbench.store.controls import ControlEntry, SharedControls, control_key
from pytest_kvbench.store.registry import REGISTRY, Registry
from pytest_kvbench.store.upkeep import examine, repair

ARM = Arm("local", "mock", "f", "none", 1.0, Sampling(), "t")
NAME = f"{control_key(ARM)}/b"


def answers(*numbers: int) -> list[Answer]:
    return [Answer(f"key{n}", f"texté {n}", "stop", Telemetry(0.1 * n)) for n in numbers]


@pytest.fixture
def controls(tmp_path: Path) -> SharedControls:
    return SharedControls(tmp_path / "cache" / "controls")


@contextmanager
def taken(controls: SharedControls) -> Iterator[ControlEntry]:
    with controls.take(NAME, {"arm": {"model": "mock"}}) as entry:
        yield entry


def fill(controls: SharedControls, *numbers: int) -> Path:
    with taken(controls) as entry:
        entry.add(answers(*numbers))
    return controls.root / NAME / FILE


def found(controls: SharedControls) -> set[str]:
    with taken(controls) as entry:
        return set(entry.answers)


def condition(controls: SharedControls) -> str:
    (finding,) = examine(controls.root)
    return finding.condition


def test_answers_come_back_whole(controls: SharedControls) -> None:
    fill(controls, 1, 2)
    with taken(controls) as entry:
        assert list(entry.answers.values()) == answers(1, 2)
    entry = controls.registry()[NAME]
    content = (controls.root / NAME / FILE).read_bytes()
    assert (entry["state"], entry["answers"], entry["bytes"]) == ("completed", 2, len(content))
    assert entry["sha256"] == read_content(controls.root / NAME / FILE).sha256
    assert entry["model"] == "mock"
    assert condition(controls) == "sound"


def test_nothing_is_written_where_nothing_changed(controls: SharedControls) -> None:
    fill(controls, 1)
    before = {p: p.read_bytes() for p in controls.root.parent.rglob("*.json*")}
    registry = controls.root.parent / REGISTRY
    inode = registry.stat().st_ino
    fill(controls, 1)
    assert {p: p.read_bytes() for p in controls.root.parent.rglob("*.json*")} == before
    assert registry.stat().st_ino == inode


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_flipped_bit_never_becomes_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    lines = b"".join(map(line_of, answers(1, 2, 3)))
    at = data.draw(st.integers(0, len(lines) - 1))
    bit = data.draw(st.integers(0, 7))
    path = tmp_path / FILE
    path.write_bytes(lines[:at] + bytes([lines[at] ^ 1 << bit]) + lines[at + 1 :])
    content = read_content(path)
    assert set(content.answers.values()) <= set(answers(1, 2, 3))
    assert len(content.answers) >= 1
    assert not content.sound or content.answers == {a.key: a for a in answers(1, 2, 3)}


def test_an_altered_line_is_dropped_and_said_once(controls: SharedControls) -> None:
    file = fill(controls, 1, 2, 3)
    file.write_bytes(file.read_bytes().replace("texté 2".encode(), b"texte 2 "))
    assert condition(controls) == "altered"
    with pytest.warns(UserWarning, match="was altered; 2 of 3 answers are sound") as said:
        assert found(controls) == {"key1", "key3"}
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    fill(controls, 2)
    assert found(controls) == {"key1", "key2", "key3"}
    assert condition(controls) == "sound"


def test_a_missing_file_is_said_and_made_again(controls: SharedControls) -> None:
    fill(controls, 1, 2).unlink()
    assert condition(controls) == "missing"
    with pytest.warns(UserWarning, match="file is gone; 2 answers to be made again"):
        fill(controls, 1, 2)
    assert condition(controls) == "sound"


def test_lines_cut_off_at_a_line_end_are_noticed(controls: SharedControls) -> None:
    file = fill(controls, 1, 2)
    file.write_bytes(line_of(*answers(1)))
    with pytest.warns(UserWarning, match="1 of 2 answers are sound"):
        assert found(controls) == {"key1"}


def test_an_entry_without_its_folder(controls: SharedControls) -> None:
    file = fill(controls, 1)
    for path in file.parent.iterdir():
        path.unlink()
    file.parent.rmdir()
    assert condition(controls) == "missing"
    assert repair(controls.root) == [f"{NAME}: entry without a folder dropped"]
    assert controls.registry() == {}


def test_a_folder_without_an_entry_is_kept_and_registered(controls: SharedControls) -> None:
    fill(controls, 1)
    (controls.root.parent / REGISTRY).unlink()
    assert condition(controls) == "orphan"
    with pytest.warns(UserWarning, match="was not in the registry; its 1 sound answers are kept"):
        assert found(controls) == {"key1"}
    assert condition(controls) == "sound"


@pytest.mark.parametrize("garbage", ["", '{"a', "[]", '{"x/y": {"state": "completed"}}', "\0\0"])
def test_a_damaged_registry_is_made_again_from_the_files(
    controls: SharedControls, garbage: str
) -> None:
    fill(controls, 1, 2)
    before = controls.registry()
    (controls.root.parent / REGISTRY).write_text(garbage)
    assert [f.condition for f in examine(controls.root)] == ["damaged", "sound"]
    with pytest.warns(UserWarning, match="made again from 1 control") as said:
        assert found(controls) == {"key1", "key2"}
    assert len(said) == 1
    assert controls.registry() == before
    assert condition(controls) == "sound"


def test_repair_makes_a_damaged_registry_again(controls: SharedControls) -> None:
    fill(controls, 1)
    (controls.root.parent / REGISTRY).write_text("{")
    with pytest.warns(UserWarning, match="made again"):
        assert repair(controls.root) == [f"{REGISTRY}: made again"]
    assert condition(controls) == "sound"


def test_a_line_of_another_version_is_kept_but_not_used(controls: SharedControls) -> None:
    from pytest_kvbench.records import canonical, digest

    file = fill(controls, 1)
    body = {"key": "key9", "written_by": "a later version"}
    line = canonical({"answer": body, "sha256": digest(body)}) + b"\n"
    file.write_bytes(line + file.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="was altered"):
        assert found(controls) == set()
    assert file.read_bytes() == line


def test_a_file_emptied_under_a_run_is_written_whole_again(controls: SharedControls) -> None:
    with taken(controls) as entry:
        entry.add(answers(1))
        (controls.root / NAME / FILE).unlink()  # as a `--cache-clear` beside us does
        entry.add(answers(2))
    assert found(controls) == {"key1", "key2"}
    assert condition(controls) == "sound"


def _die_while_adding(root: Path) -> None:
    async def hold() -> None:
        async with SharedControls(root).hold(ARM, "b") as entry:
            entry.add(answers(1))
            with (root / NAME / FILE).open("ab") as file:
                file.write(line_of(*answers(2))[:40])
                file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(hold())


def test_the_claim_of_the_dead_is_taken_over(controls: SharedControls) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_die_while_adding, args=(controls.root,)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert controls.registry()[NAME]["state"] == "pending"
    assert condition(controls) == "abandoned"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a death in mid-write is no damage
        assert found(controls) == {"key1"}
    assert condition(controls) == "sound"


def _register(root: Path, number: int) -> None:
    for n in range(8):
        with SharedControls(root).take(f"key{number}/b{n}", {}) as entry:
            entry.add(answers(n))


def test_processes_never_lose_each_others_entries(controls: SharedControls) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_register, args=(controls.root, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len(controls.registry()) == 24
    assert {f.condition for f in examine(controls.root)} == {"sound"}


def test_one_holds_others_wait(controls: SharedControls) -> None:
    order = []

    async def use(name: str) -> None:
        async with controls.hold(ARM, "b") as entry:
            order.append((name, len(entry.answers)))
            await asyncio.sleep(0.05)
            entry.add(answers(1))

    async def both() -> None:
        await asyncio.gather(use("first"), use("second"))

    asyncio.run(both())
    assert [count for _, count in order] == [0, 1]


def test_other_arms_have_other_controls() -> None:
    others = [
        dataclasses.replace(ARM, **change)
        for change in (
            {"engine": "x"},
            {"model": "x"},
            {"fingerprint": "x"},
            {"template_version": "x"},
            {"sampling": Sampling(temperature=0.5)},
        )
    ]
    assert len({control_key(arm) for arm in [ARM, *others]}) == 6
    assert control_key(dataclasses.replace(ARM, variant="only a name")) == control_key(ARM)


def test_repair_leaves_alone_what_a_run_holds(controls: SharedControls) -> None:
    file = fill(controls, 1, 2)
    file.write_bytes(file.read_bytes()[:-3])
    with FileLock(file.parent / "lock"):
        assert condition(controls) == "in use"
        assert repair(controls.root) == []
    assert repair(controls.root) == [f"{NAME}: put right, 1 sound answers kept"]
    assert condition(controls) == "sound"


def test_what_was_not_used_for_long_is_removed_only_on_demand(controls: SharedControls) -> None:
    file = fill(controls, 1)
    long_ago = time.time() - 100
    os.utime(file.parent / "meta.json", (long_ago, long_ago))
    assert repair(controls.root) == []
    assert repair(controls.root, 1000) == []
    assert repair(controls.root, 50) == [f"{NAME}: removed, 1 answer"]
    assert (examine(controls.root), controls.registry()) == ([], {})


def test_twenty_thousand_answers_are_not_quadratic(controls: SharedControls) -> None:
    def seconds(count: int) -> float:
        made = answers(*range(count))
        name = f"k/{count}"
        started = time.process_time()
        with controls.take(name, {}) as entry:
            for answer in made:
                entry.add([answer])
        return time.process_time() - started

    small, large = seconds(500), seconds(4000)
    assert large < 30 * small  # linear: 8 times; quadratic: 64 times


def test_a_folder_that_cannot_be_made_is_two_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    controls = SharedControls(tmp_path / "file" / "controls")
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        fill(controls, 1)


def test_registry_is_readable_json(controls: SharedControls) -> None:
    fill(controls, 1)
    data: dict[str, Any] = json.loads((controls.root.parent / REGISTRY).read_text())
    assert list(data[NAME]) == ["answers", "bytes", "model", "sha256", "state"]
    assert Registry(controls.root).read()[NAME].answers == 1
