"""A class of a user's as a policy: by its file, and by a name that a conftest gives it.

A process of its own imports kvpress to read it: the tests are `model` for that.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli import given
from pytest_kvbench.cli.stages import main
from pytest_kvbench.policies.own import CLASSES
from tests.conftest import Project
from tests.support import pages
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.model

CONFTEST = """
def pytest_kvbench_policies():
    return {"mine": "./mypress.py:MyPress"}
"""


@pytest.fixture
def press(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The class of README, in a project."""
    monkeypatch.setenv("KVBENCH_CACHE", str(project.path / "cache"))
    monkeypatch.delenv("KVBENCH_DIR", raising=False)
    file = project.path / "mypress.py"
    file.write_text(pages.block("python", "class MyPress"))
    return file


def declare(project: Project, name: str) -> None:
    file = project.path / "exp.yaml"
    file.write_text(file.read_text().replace("[snapkv]", f'[knorm, "{name}"]'))


def test_a_conftests_name_is_known_to_workers_and_to_every_command(
    project: Project, press: Path, mock: MockServer
) -> None:
    """The conftest is one that neither the controller nor the command line loads by itself."""
    declare(project, "mine")
    (project.path / "pyproject.toml").touch()
    place = project.path / "deeper"
    place.mkdir()
    (place / "conftest.py").write_text(CONFTEST.replace("./", "../"))
    for name in ("exp.yaml", "test_exp.py"):
        (project.path / name).rename(place / name)
    assert project.run("-n", "2").ret == 0
    arms = {(policy, budget) for _, policy, budget, _ in mock.asked}
    assert {("knorm", 0.5), ("mine", 0.5), ("mine", 0.2)} <= arms
    for words in (("analyse", "g"), ("report", "g"), ("run", "deeper/exp.yaml")):
        CLASSES.brought.clear()  # by what this process did before
        given._load.cache_clear()
        done = CliRunner().invoke(main, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "0 answered, 0 failed, 100 stored before" in done.output


@pytest.mark.slow
def test_a_changed_class_is_asked_again_alone_and_nothing_leaves_its_folder(
    project: Project, press: Path, mock: MockServer
) -> None:
    inside = project.path / "inside"
    inside.mkdir()
    name = "../mypress.py:MyPress"
    declare(project, name)
    for file in ("exp.yaml", "test_exp.py", "words.jsonl"):
        (project.path / file).rename(inside / file)
    before = {file for file in project.path.iterdir() if file.is_file()}
    with pytest.MonkeyPatch.context() as at:
        at.chdir(inside)
        assert project.run("-n", "0", "--kvbench-report", "--rootdir=.").ret == 0
        asked = mock.asked.copy()
        press.write_text(press.read_text() + "\n# another state of it\n")
        assert project.run("-n", "0", "--rootdir=.").ret == 0
        done = CliRunner().invoke(main, ["export", "--artifacts", "arts", "g"])
    assert done.exit_code == 0, done.output
    again = {key for key, count in mock.asked.items() if count > asked[key]}
    assert {policy for _, policy, _, _ in again} == {name}
    assert len(again) == 40
    assert name in (inside / "reports/g/report.md").read_text()
    assert {file for file in project.path.iterdir() if file.is_file()} == before
