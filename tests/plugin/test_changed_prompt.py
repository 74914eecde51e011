"""A task that changes its prompts without a new version: old and new answers never mix."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.frames import load_group
from tests.conftest import Project
from tests.support.mock_server import MockServer

CONFTEST = """
import json
from dataclasses import replace
from pathlib import Path

from pytest_kvbench.tasks.rows import RowTask


class Mine(RowTask):
    template_version = "always-the-same"

    def prompt(self, example):
        sent = super().prompt(example)
        return replace(sent, **CHANGED(sent))


def words(options):
    lines = Path(__file__).with_name("words.jsonl").read_text().splitlines()
    return Mine(name="mine", rows=lambda: map(json.loads, lines), **options)


def pytest_kvbench_tasks():
    return {"mine": words}


CHANGED = lambda sent: """


def change(project: Project, changed: str) -> None:
    (project.path / "conftest.py").write_text(CONFTEST + changed)


@pytest.fixture
def mine(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that was measured with a task class of its own."""
    monkeypatch.chdir(project.path)
    change(project, "{}")
    exp = project.path / "exp.yaml"
    exp.write_text(exp.read_text().replace('"jsonl:words.jsonl"', "mine"))
    assert project.run("-n", "0").ret == 0
    return project


@pytest.mark.parametrize(
    "changed", ["{'head': f'Hm. {sent.head}'}", "{'max_tokens': 7}", "{'stop': ('x',)}"]
)
def test_a_changed_prompt_is_refused_or_asked_anew(
    mine: Project, mock: MockServer, changed: str
) -> None:
    change(mine, changed)
    mock.asked.clear()
    refused = mine.run("-n", "0")
    assert refused.ret == 4
    refused.stdout.fnmatch_lines(["*mine: the prompt of example *", "*--kvbench-force*"])
    stages = [CliRunner().invoke(main, [stage, "g"]).exit_code for stage in ("score", "analyse")]
    assert stages == [4, 4]
    assert not mock.asked
    mock.accuracy = lambda policy, budget: 0.5
    forced = mine.run("-n", "0", "--kvbench-force")
    assert (forced.ret, sum(mock.asked.values())) == (0, 60)
    _only_new_answers_count(mine)


def _only_new_answers_count(mine: Project) -> None:
    """Everywhere: in the summary, in exported arms, and as rows that one can tell apart."""
    treated = [c for c in mine.summary()["cells"] if c["policy"] == "snapkv"]
    assert all(cell["treated_mean"] < 1 for cell in treated)
    answers = load_group("reports/g").answers
    assert len(answers) == 120
    assert answers["prompt"].nunique() == 40
    assert not answers.duplicated(["policy", "budget", "example_id", "prompt"]).any()
    done = CliRunner().invoke(main, ["export", "g", "--artifacts", "arms"])
    assert done.exit_code == 0, done.output
    files = [*mine.path.glob("arms/**/answers.jsonl"), *mine.path.glob("arms/**/control.jsonl")]
    lines = [line for file in files for line in file.open()]
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 60
    assert "no" in texts


def test_the_length_and_the_template_are_told_everywhere(mine: Project) -> None:
    (task,) = mine.summary()["tasks"]
    assert (task["template"], task["max_tokens"]) == ("always-the-same", [64])
    mine.run("-n", "0", "--kvbench-set", "sampling.max_tokens=9", "--kvbench-report")
    (task,) = mine.summary()["tasks"]
    assert task["max_tokens"] == [9]
    report = (mine.path / "reports/g/report.md").read_text()
    assert "| New tokens at most |" in report
    group = load_group("reports/g")
    assert sorted(group.answers["max_tokens"].value_counts().to_dict().items()) == [
        (9, 60),
        (64, 60),
    ]
    assert set(group.cells["max_tokens"]) == {9}
    assert set(group.answers["template"]) == {"always-the-same"}
