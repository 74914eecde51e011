"""Shared controls under a real run: damage, `--cache-clear`, archives, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.mock_server import MockServer
from tests.support.summaries_compared import comparable

ITEMS = 2 * 3
EXAMPLES = 20


def cached(project: Project) -> Path:
    return project.path / ".pytest_cache" / "d"


def files(project: Project) -> list[Path]:
    return sorted((cached(project) / "shared_controls").rglob("control.jsonl"))


def kvbench(project: Project, *args: str, answer: str = "") -> Result:
    with contextlib.chdir(project.path):
        return CliRunner().invoke(main, list(args), input=answer, catch_exceptions=False)


def flip_a_bit(project: Project) -> None:
    file = files(project)[0]
    content = bytearray(file.read_bytes())
    content[content.index(b'"text":"') + 9] ^= 1
    file.write_bytes(content)


def cut_the_registry(project: Project) -> None:
    registry = cached(project) / "control_registry.json"
    registry.write_bytes(registry.read_bytes()[:100])


def remove_a_folder(project: Project) -> None:
    shutil.rmtree(files(project)[0].parent)


@pytest.mark.parametrize(
    ("damage", "lost", "said"),
    [
        (flip_a_bit, 1, "*was altered; 9 of 10 answers are sound*"),
        (remove_a_folder, 10, "*its file is gone; 10 answers to be made again*"),
        (cut_the_registry, 0, "*control_registry.json: is damaged*"),
    ],
)
def test_another_group_asks_only_what_was_damaged(
    project: Project, mock: MockServer, damage: Callable[[Project], None], lost: int, said: str
) -> None:
    project.run()
    damage(project)
    other = project.run("--kvbench-set", "group=other", "--kvbench-set", "kv.policies=[knorm]")
    other.assert_outcomes(passed=ITEMS, warnings=2)
    other.stdout.fnmatch_lines([said])
    assert sum(mock.controls) == EXAMPLES + lost
    assert kvbench(project, "controls", "verify").exit_code == 0


@pytest.mark.slow
def test_a_replaced_worker_does_not_clear_the_cache_again(
    project: Project, mock: MockServer
) -> None:
    project.run()
    canary = cached(project) / "shared_controls" / "canary"
    project.pytester.makepyfile(
        test_zz_crash=f"""
        import os, pathlib, signal

        def test_crash():
            canary = pathlib.Path({str(canary)!r})
            canary.parent.mkdir(parents=True, exist_ok=True)
            canary.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        def test_after():
            assert True
        """
    )
    old = files(project)[0].stat().st_ino
    result = project.run("-n", "1", "--cache-clear")
    result.assert_outcomes(passed=ITEMS + 1, failed=1)
    result.stdout.fnmatch_lines(["*replacing crashed worker*"])
    assert canary.exists()
    assert files(project)[0].stat().st_ino != old
    assert len(files(project)) == 2
    assert mock.posts == EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize(
    "groups", [("g", "other"), pytest.param(("g", "g"), marks=pytest.mark.slow)]
)
def test_two_runs_at_once_ask_each_control_once(
    project: Project, mock: MockServer, groups: tuple[str, str]
) -> None:
    mock.latency_s = 0.02
    command = [sys.executable, "-m", "pytest", "-p", "no:benchmark", "-n", "2", "--kvbench-set"]
    runs = [
        subprocess.Popen([*command, f"group={group}"], cwd=project.path, stdout=subprocess.PIPE)
        for group in groups
    ]
    for run in runs:
        output, _ = run.communicate(timeout=120)
        assert run.returncode == 0, output.decode()
    assert set(mock.controls) == {1}
    assert len(mock.controls) == EXAMPLES


@pytest.mark.slow
def test_a_large_sweep_on_many_workers_asks_each_control_once(
    project: Project, mock: MockServer
) -> None:
    """4 policies x 3 trials x 5 bins, by 8 workers; then twice at the same moment, anew."""
    rows = [
        {
            "question": f"Say w{n}",
            "context": f"text{n} " * (20 + 200 * (n % 5)),
            "answers": [f"w{n}"],
        }
        for n in range(50)
    ]
    (project.path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wide = [
        *("kv.policies=[snapkv, knorm, tova, streaming_llm]", "kv.budgets=[1.0, 0.5]"),
        *("bins={n: 5, per_bin: 4, edges: [150, 350, 550, 750]}",),
        *("sampling={temperature: 0.7, trials: 3}",),
    ]
    command = [sys.executable, "-m", "pytest", "-p", "no:benchmark", "-q", "-n"]
    options = [word for setting in wide for word in ("--kvbench-set", setting)]
    done = subprocess.run(
        [*command, "8", *options],
        cwd=project.path,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "25 passed" in done.stdout
    assert len(mock.controls) == 5 * 4 * 3
    assert set(mock.controls) == {1}
    assert len(mock.asked) == 5 * 4 * 3 * 5
    mock.asked.clear()
    anew = [*options, "--cache-clear", "--kvbench-set"]
    runs = [
        subprocess.Popen([*command, "4", *anew, f"group={name}"], cwd=project.path)
        for name in ("first", "second")
    ]
    assert [run.wait(240) for run in runs] == [0, 0]
    assert len(mock.controls) == 5 * 4 * 3
    assert set(mock.controls) == {1}


def test_cli_lists_verifies_and_prunes(project: Project) -> None:
    project.run()
    listed = json.loads(kvbench(project, "controls", "list", "--json").stdout)
    assert [(f["condition"], f["answers"], f["model"]) for f in listed] == [
        ("sound", 10, "mock")
    ] * 2
    assert kvbench(project, "controls", "verify").stdout.endswith("2 of 2 in order\n")
    flip_a_bit(project)
    (cached(project) / "shared_controls" / "k" / "orphan").mkdir(parents=True)
    wrong = kvbench(project, "controls", "verify")
    assert wrong.exit_code == 1
    assert "altered" in wrong.stdout
    assert "orphan" in wrong.stdout
    declined = kvbench(project, "controls", "prune", answer="n\n")
    assert "put 2 right?" in declined.stdout
    assert kvbench(project, "controls", "verify").exit_code == 1
    assert "9 sound answers kept" in kvbench(project, "controls", "prune", "--yes").stdout
    assert kvbench(project, "controls", "verify").exit_code == 0


def test_an_archive_goes_on_elsewhere_without_a_request(
    project: Project,
    mock: MockServer,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mock.accuracy = lambda policy, budget: 1.0 if budget >= 0.5 else 0.4
    project.run()
    made = kvbench(project, "archive", "g", "--to", "g.tar.gz")
    assert made.exit_code == 0, made.stderr
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("words.jsonl", "exp.yaml", "test_exp.py"):  # nothing that a run left
        shutil.copy(project.path / name, elsewhere)
    there = Project(project.pytester, elsewhere)
    restored = kvbench(there, "restore", str(project.path / "g.tar.gz"), "--trust")
    assert restored.exit_code == 0, restored.stderr
    assert "2 shared controls" in restored.stdout
    monkeypatch.chdir(elsewhere)
    there.run().assert_outcomes(passed=ITEMS)
    other = there.run("--kvbench-set", "group=other", "--kvbench-set", "kv.budgets=[1.0]")
    other.assert_outcomes(passed=2)  # its controls came along
    assert mock.posts == EXAMPLES
    assert comparable(there.summary()) == comparable(project.summary())
    assert len(there.summary()["cells"]) == 8


def test_clean_removes_a_group_that_an_archive_holds(project: Project) -> None:
    project.run()
    refused = kvbench(project, "clean", "g", "--min-age", "0s")
    assert refused.exit_code == 1
    assert "no archive of it" in refused.stdout
    assert kvbench(project, "archive", "g").exit_code == 0
    assert "changed 0.0 days ago" in kvbench(project, "clean", "g").stdout
    assert (
        "would be removed" in kvbench(project, "clean", "g", "--min-age", "0s", "--dry-run").stdout
    )
    assert (project.path / "reports" / "g").exists()
    assert kvbench(project, "clean", "g", "--min-age", "0s").exit_code == 0
    assert not (project.path / "reports" / "g").exists()


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A disk of 600 kB."""
    folder = tmp_path_factory.mktemp("disk")
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)],
            check=False,
            timeout=120,
        ).returncode
    ):
        pytest.skip("mounting needs privileges that this machine does not give")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=120)


def test_a_full_disk_is_two_lines_and_the_next_run_completes(
    project: Project, mock: MockServer, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 330_000)
    result = project.run("--kvbench-dir", str(small_disk))
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*kvbench: *disk is full*", "*what was answered stays*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    filler.unlink()
    again = project.run("--kvbench-dir", str(small_disk), "-p", "no:cacheprovider")
    again.assert_outcomes(passed=ITEMS)


def test_a_read_only_reports_folder_is_two_lines(project: Project, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=120)
    result = project.run("--kvbench-dir", str(small_disk))
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*kvbench: *cannot be written: Read-only file system*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_group_on_a_read_only_disk_is_two_lines(project: Project, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=3m", str(small_disk)], check=True, timeout=120)
    # in a process of its own, which keeps nothing open behind it
    first = project.pytester.runpytest_subprocess("--kvbench-dir", str(small_disk), timeout=120)
    first.assert_outcomes(passed=ITEMS)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=120)
    result = project.run("--kvbench-dir", str(small_disk))
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*Read-only file system*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    for stage in ("score", "analyse", "report"):
        done = kvbench(project, stage, "g", "--dir", str(small_disk))
        assert done.exit_code == 10
        assert done.stderr.count("\n") == 2, done.stderr


def test_each_group_says_whose_controls_it_used(project: Project) -> None:
    project.run("-k", "bin0")
    project.run("--kvbench-set", "group=other", "--kvbench-report")
    first, other = (project.summary(name)["provenance"]["controls"] for name in ("g", "other"))
    assert [(c["produced"], c["reused"]) for c in first] == [(10, 0), (0, 0)]
    assert [(c["produced"], c["reused"]) for c in other] == [(0, 10), (10, 0)]
    assert [c["control"] for c in first] == [c["control"] for c in other]
    known = {
        f.parent.relative_to(cached(project) / "shared_controls").as_posix() for f in files(project)
    }
    assert {c["control"] for c in other} == known
    report = (project.path / "reports/other/report.md").read_text(encoding="utf-8")
    assert "10 answers asked for, 10 taken from shared controls" in report


@pytest.mark.slow
def test_a_folder_without_an_entry_is_said_once(project: Project) -> None:
    project.run("-k", "bin0")
    (cached(project) / "shared_controls" / "k" / "orphan").mkdir(parents=True)
    for n in ("0", "2"):
        result = project.run("-n", n)
        result.stdout.fnmatch_lines(
            ["*1 folders belong to no entry of the registry (k/orphan, ...)*"]
        )
