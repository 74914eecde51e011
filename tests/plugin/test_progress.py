"""The line shown while cells are measured: on a terminal, in a log, under xdist."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer

COLUMNS = 100
SLOW_S = 0.4
"""An answer; with few requests in flight a run takes seconds, so that the line is drawn."""
FEW = ("--kvbench-set", "engine.concurrency=5")


PYTEST = ("pytest", "-p", "no:benchmark")


def on_a_terminal(folder: Path, *args: str) -> str:
    """What a terminal receives from `python -m ARGS`."""
    owner, terminal = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "COLUMNS")}
    command = [sys.executable, "-m", *args]
    process = subprocess.Popen(
        command, cwd=folder, stdout=terminal, stderr=terminal, stdin=terminal,
        env={**environment, "COLUMNS": str(COLUMNS), "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    received = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([owner], [], [], 0.2)[0]:
            try:
                received += os.read(owner, 65536)
            except OSError:  # the other end is closed
                break
    assert process.wait(10) == 0
    os.close(owner)
    return received.decode()


def screen(received: str) -> list[str]:
    """The lines a terminal would show: cursor up, right, erase line, erase below."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", received):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row, column = row + 1, 0  # a terminal adds the carriage return
        elif not piece.startswith("\x1b"):
            lines += [""] * (row + 1 - len(lines))
            kept = lines[row].ljust(column)
            lines[row] = kept[:column] + piece + kept[column + len(piece) :]
            column += len(piece)
        else:
            lines += [""] * (row + 1 - len(lines))
            number = int(re.sub(r"\D", "", piece) or 1)
            if piece.endswith("A"):
                row -= number
            elif piece.endswith("C"):
                column += number
            elif piece.endswith("K"):
                lines[row] = "" if "2" in piece else lines[row][:column]
            elif piece.endswith("J"):
                lines[row:] = [lines[row][:column]]
    return [line.rstrip() for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ("-n", "2"),
        ("-n", "0", "-v"),
        pytest.param(("-n", "0"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_redrawn_below_on_a_terminal(
    project: Project, mock: MockServer, args: tuple[str, ...]
) -> None:
    mock.latency_s = SLOW_S
    received = on_a_terminal(project.path, *PYTEST, *args, *FEW)
    drawn = [found.replace("\x1b[1A", "") for found in re.findall(r"kvbench: [^\x1b]*", received)]
    counts = [int(found[1]) for line in drawn if (found := re.search(r"(\d+)/60 answers", line))]
    assert len(counts) >= 2
    assert counts == sorted(counts)
    assert any("left" in line for line in drawn)
    shown = screen(received)
    assert not [line for line in shown if "answers," in line and "kvbench:" in line]
    assert any("6 passed" in line for line in shown)
    if "-v" in args:
        assert sum("PASSED" in line for line in shown) == 6
        assert all(re.match(r"test_exp.py::\S+ PASSED +\[", ln) for ln in shown if "PASSED" in ln)


@pytest.mark.slow
def test_quiet_under_q_and_without_a_terminal(project: Project, mock: MockServer) -> None:
    mock.latency_s = SLOW_S
    assert "kvbench: " not in on_a_terminal(project.path, *PYTEST, "-q", "-k", "bin0")
    mock.latency_s = 0.0
    project.run("--kvbench-fresh").stdout.no_fnmatch_line("*/60 answers*")


@pytest.mark.slow
@pytest.mark.parametrize("n", [pytest.param("0", marks=pytest.mark.slow), "2"])
def test_one_line_now_and_then_in_a_verbose_log(project: Project, mock: MockServer, n: str) -> None:
    mock.latency_s = SLOW_S
    project.pytester.makeconftest(
        "import pytest_kvbench.plugin.progress as progress\nprogress.LINE_S = 0.6\n"
    )
    quick = ("-p", "no:benchmark", "-p", "no:hypothesispytest")
    # A process of its own: the line goes to file descriptor 1, past what is captured here.
    result = project.pytester.runpytest_subprocess(
        *quick, "-v", "-n", n, "-k", "bin0", *FEW, timeout=120
    )
    result.assert_outcomes(passed=3, deselected=3 if n == "0" else 0)  # xdist counts none
    assert "\n\nkvbench: " not in result.stdout.str()
    lines = [line for line in result.outlines if line.startswith("kvbench: ")]
    assert lines
    assert all(re.match(r"kvbench: \d+/30 answers", line) for line in lines)


def test_a_server_that_counts_tokens_slowly_is_no_silence(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVBENCH_CACHE", str(project.path / "cache"))
    mock.latency_s = 0.02
    project.pytester.makeconftest(
        "import pytest_kvbench.plugin.progress as progress\nprogress.LINE_S = 0.05\n"
        "import pytest_kvbench.tasks.together as together\ntogether.EVERY_S = 0.05\n"
    )
    quick = ("-p", "no:benchmark", "-p", "no:hypothesispytest", "--kvbench-set", "tokenizer=auto")
    result = project.pytester.runpytest_subprocess(
        *quick, "-v", "-k", "bin0", "-n", "0", timeout=120
    )
    assert result.ret == 0
    lines = [line for line in result.outlines if line.startswith("kvbench: counting tokens at ")]
    assert lines
    assert all(re.search(r"/tokenize: \d+ of \d+ texts$", line) for line in lines)


def test_verdicts_ride_on_reports_into_junit_xml(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 0.0 if budget == 0.2 else 1.0
    project.run("-n", "2", "--junitxml=j.xml")
    text = (project.path / "j.xml").read_text(encoding="utf-8")
    case = re.search(r"<testcase[^>]*bin0-snapkv-0.20.*?</testcase>", text, flags=re.S)
    assert case is not None
    properties = dict(re.findall(r'<property name="(\w+)" value="([^"]*)"', case[0]))
    assert properties["kvbench_verdict"] == "breaks"
    assert float(properties["kvbench_delta"]) == -1.0
    control = re.search(r"<testcase[^>]*bin0-control.*?</testcase>", text, flags=re.S)
    assert control is not None
    assert "kvbench_verdict" not in control[0]
    assert 'name="kvbench_score" value="1.0"' in control[0]


def test_the_answer_goes_to_the_page_of_a_ci_job(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "step.md"
    page.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    project.run()
    said = page.read_text(encoding="utf-8")
    assert said.startswith("# before\n")
    assert "KV budget report: g" in said


@pytest.mark.slow
def test_kvbench_run_shows_it_too_and_takes_it_away(project: Project, mock: MockServer) -> None:
    mock.latency_s = SLOW_S
    received = on_a_terminal(project.path, "pytest_kvbench.cli", "run", "exp.yaml")
    counts = [int(n) for n in re.findall(r"(\d+)/60 answers", received)]
    assert len(counts) > 2
    assert counts == sorted(counts)
    assert counts[-1] == 60
    assert [line for line in screen(received) if line] == [
        "g: 60 answered, 0 failed, 0 stored before, 0 shared controls reused"
    ]
