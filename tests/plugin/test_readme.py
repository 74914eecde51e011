"""README's own blocks, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)
    (found,) = (text for text in blocks if containing in text)
    return str(found)


def test_the_task_of_ones_own(project: Project, mock: MockServer) -> None:
    mock.word_of = lambda prompt: "Rome"
    (project.path / "conftest.py").write_text(block("python", "pytest_kvbench_tasks"))
    file = project.path / "exp.yaml"
    file.write_text(
        file.read_text()
        .replace('"jsonl:words.jsonl"', "mine/capitals")
        .replace("n: 2, per_bin: 10, edges: [150]", "n: 1, per_bin: 1")
    )
    result = project.run("-n", "0")
    result.assert_outcomes(passed=3)
    control = next(c for c in project.summary()["cells"] if c["policy"] == "none")
    assert (control["task"], control["control_mean"]) == ("mine/capitals", 1.0)


def test_the_experiment_and_its_test(pytester: pytest.Pytester) -> None:
    (pytester.path / "evals").symlink_to(ROOT / "evals")
    (pytester.path / "my.yaml").write_text(block("yaml", "group: my_experiment"))
    pytester.makepyfile(test_mine=block("python", '"my.yaml"'))
    result = pytester.runpytest_subprocess("--kvbench-plan", "test_mine.py")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*15 cells*"])
