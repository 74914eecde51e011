"""What pyproject.toml says in place of options, and options that would do nothing."""

from __future__ import annotations

import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer


def settings(project: Project, *lines: str) -> None:
    text = "[tool.pytest.ini_options]\n" + "\n".join(lines)
    (project.path / "pyproject.toml").write_text(text)


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_what_is_typed_each_time_may_stand_in_the_project(project: Project, n: str) -> None:
    settings(
        project,
        'kvbench_dir = "out"',
        'kvbench_report = "true"',
        'kvbench_save = "./base"',
        'kvbench_set = ["gate.margin=0.3", "kv.budgets=[1.0, 0.5]"]',
    )
    result = project.run("-n", n, "--kvbench-set", "gate.margin=0.2")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*(margin 0.2)*", "out/g/report.md", "saved: base/g.json"])


def test_the_command_line_wins(project: Project) -> None:
    settings(project, 'kvbench_dir = "out"', 'kvbench_deadline = "0s"')
    result = project.run("-n", "0", "--kvbench-dir", "here", "--kvbench-deadline", "10m")
    result.assert_outcomes(passed=6)
    assert (project.path / "here/g").is_dir()
    assert not (project.path / "out").exists()


def test_a_setting_that_is_wrong_is_refused(project: Project) -> None:
    settings(project, 'kvbench_deadline = "soon"')
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*kvbench_deadline: 'soon' is no span; valid: *"])


@pytest.mark.parametrize("n", ["0", "1"])
def test_an_experiment_that_no_test_uses_is_refused(
    project: Project, mock: MockServer, n: str
) -> None:
    result = project.run("-n", n, "--kvbench-experiment", "exp.yml")
    assert result.ret == 4
    both = result.stderr.lines + result.stdout.lines
    assert any("--kvbench-experiment exp.yml: no test here uses it" in line for line in both)
    assert mock.posts == 0


def test_ctrl_c_says_that_answers_are_kept(project: Project) -> None:
    (project.path / "conftest.py").write_text(
        "def pytest_runtest_teardown(item): raise KeyboardInterrupt\n"
    )
    result = project.run("-n", "0", no_reraise_ctrlc=True)
    assert result.ret == 2
    result.stdout.fnmatch_lines(["kvbench: interrupted: what was answered is kept; *"])
