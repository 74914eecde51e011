"""The commands of the workflow in docs/ci.md, step by step: green, then red after a change."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.plugin.test_readme import needle
from tests.support import pages
from tests.support.mock_server import MockServer

WORKFLOW = yaml.safe_load(pages.block("text", "actions/checkout"))
STEPS = [step["run"] for step in WORKFLOW["jobs"]["quality"]["steps"] if "run" in step]


def steps(project: Project) -> list[int]:
    """The exit status of each command but the installation."""
    tests = (shlex.split(step) for step in STEPS if step.startswith("pytest "))
    return [int(project.run("-n", "0", *words[1:]).ret) for words in tests]


def test_green_then_red_after_the_server_changes_at_its_address(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    page = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    mock.word_of = needle
    with MockServer(word_of=needle, arm=("treated", 0.5), fingerprint={}) as treated:
        control = mock.base_url
        mock.fingerprint = {}
        done = CliRunner().invoke(main, ["init", control, treated.base_url])
        assert done.exit_code == 0, done.output
        file = Path("kvbench.yaml")
        file.write_text(file.read_text().replace("per_bin: 52", "per_bin: 20"))  # a quicker test
        assert project.run("-n", "0", "test_kvbench.py", "--kvbench-save", "./baselines").ret == 0
        assert Path("baselines/kvbench.json").is_file()
        assert steps(project) == [0, 0]
        treated.accuracy = lambda policy, budget: 0.2
        assert steps(project) == [0, 1]
    assert "breaks" in page.read_text()
    assert Path("reports/junit.xml").is_file()


def test_the_page_has_the_workflow_that_init_writes(
    tmp_path: Path, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with MockServer() as other:
        CliRunner().invoke(main, ["init", mock.base_url, other.base_url])
    ours = yaml.safe_load(Path(".github/workflows/kvbench.yml").read_text())
    for step in WORKFLOW["jobs"]["quality"]["steps"]:
        if "run" in step:
            step["run"] = step["run"].replace(" --kvbench-compare ./baselines", "")
    assert ours == WORKFLOW
