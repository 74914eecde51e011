"""--kvbench-deadline: asks no more in time, judges what is there, and is never green then."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.mock_server import MockServer


def slow(mock: MockServer, after: int) -> None:
    """So many requests are answered at once, the others too late."""

    def latency(number: int, body: object) -> None:
        mock.latency_s = 0.0 if number <= after else 3600.0

    mock.trouble = latency


@pytest.mark.parametrize(
    ("mode", "n"), [("gate", "0"), pytest.param("measure", "2", marks=pytest.mark.slow)]
)
def test_what_is_there_is_judged_and_called_partial(
    project: Project, mock: MockServer, mode: str, n: str
) -> None:
    slow(mock, 14)
    alone = ("--kvbench-set", "engine.concurrency=1", "--kvbench-set", f"gate.mode={mode}")
    result = project.run("-n", n, "--kvbench-deadline", "5s" if n == "0" else "30s", *alone)
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*the deadline is over, and not all was asked*"])
    summary = project.summary()
    assert summary["partial"]
    assert all(
        "missing" in row["reason"] or "not run" in row["reason"] for row in summary["missing"]
    )
    judged = [cell["n"] for cell in summary["cells"] if cell["budget"] == 0.5 and cell["n"]]
    assert 0 < sum(judged) < 2 * 20
    mock.trouble = lambda number, body: None
    mock.latency_s = 0.0
    again = project.run("-n", n, "--kvbench-deadline", "10m", *alone)
    again.assert_outcomes(passed=6)
    assert again.ret == 0
    assert not project.summary()["partial"]


def test_the_command_too(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    slow(mock, 14)
    gated = ("--set", "engine.concurrency=1", "--set", "gate.mode=gate")
    done = CliRunner().invoke(main, ["all", "exp.yaml", *gated, "--deadline", "3s"])
    assert done.exit_code == 10
    assert "kvbench: the deadline is over, and not all was asked" in done.output
    assert Path("reports/g/report.md").is_file()


def test_what_is_no_span_is_refused(project: Project) -> None:
    result = project.run("--kvbench-deadline", "soon")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*'soon' is no span; valid: 90s, 30m*"])
