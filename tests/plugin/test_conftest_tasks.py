"""Tasks that a conftest brings are known to every command, wherever it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.mock_server import MockServer

Kvbench = Callable[..., Result]

ROWS = """
import json
from pathlib import Path

def rows():
    lines = Path(__file__).with_name("words.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
"""
CONFTEST = """
from mytasks import rows
from pytest_kvbench.tasks.rows import RowTask

print("a conftest may say something")

def words(options):
    return RowTask(name="mine/words", rows=rows, template="{context} Now: {question}", **options)

def pytest_kvbench_tasks():
    return {"mine/words": words}
"""


@pytest.fixture
def kvbench(project: Project, monkeypatch: pytest.MonkeyPatch) -> Kvbench:
    monkeypatch.delenv("KVBENCH_DIR", raising=False)
    return lambda *args: CliRunner().invoke(main, list(args), catch_exceptions=False)


def bring(project: Project, folder: str = ".", text: str = CONFTEST) -> Path:
    """Put the conftest, its helper and the experiment into a folder of a project."""
    place = project.path / folder
    place.mkdir(exist_ok=True)
    (place / "conftest.py").write_text(text)
    (place / "mytasks.py").write_text(ROWS)
    for name in ("words.jsonl", "exp.yaml", "test_exp.py"):
        (project.path / name).rename(place / name)
    exp = place / "exp.yaml"
    exp.write_text(exp.read_text().replace('"jsonl:words.jsonl"', "mine/words"))
    (project.path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-q'\n")
    return exp


def summary_of(project: Project) -> dict[str, object]:
    path = project.path / "reports" / "g" / "summary.json"
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found


OFFLINE = ("--set", "engine.base_url=http://127.0.0.1:9/v1", "--set", "tokenizer=approximate")
COMMANDS = [
    ("validate", "EXP"),
    ("power", "EXP"),
    ("prepare", "EXP", "--dir", "DIR"),
    ("run", "g", "--dir", "DIR"),
    ("wait", "g", "--dir", "DIR"),
    ("wait", "EXP", "--dir", "DIR", "--then", "score"),
    ("score", "EXP", "--dir", "DIR"),
    ("analyse", "g", "--dir", "DIR"),
    ("report", "g", "--dir", "DIR"),
    ("analyse", "g", "--dry-run", "--dir", "DIR"),
    ("batch", "export", "EXP", "--dir", "DIR", "--to", "files"),
    ("score-file", "mine/words", "p.jsonl"),
    ("inspect", "mine/words", *OFFLINE),
]


@pytest.mark.parametrize(("folder", "cwd"), [("evals", "."), (".", "deep/er")])
def test_every_command_knows_them_from_the_root_and_from_a_folder_of_it(
    project: Project, kvbench: Kvbench, monkeypatch: pytest.MonkeyPatch, folder: str, cwd: str
) -> None:
    exp = bring(project, folder)
    here = project.path / cwd
    here.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here)
    (here / "p.jsonl").write_text('{"prediction": "red1", "answers": ["red1"]}\n')
    real = {"EXP": str(exp), "DIR": str(project.path / "reports")}
    for words in COMMANDS:
        result = kvbench(*(real.get(word, word) for word in words))
        assert result.exit_code == 0, (words, result.output)
        assert "may say something" not in result.output
    assert not summary_of(project)["partial"]


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_what_pytest_measured_is_reported_by_the_command_it_prints(
    project: Project, kvbench: Kvbench, n: str
) -> None:
    bring(project, "evals")
    result = project.run("-n", n)
    assert result.ret == 0
    (hint,) = (line for line in result.outlines if line.startswith("report: kvbench "))
    done = kvbench(*hint.removeprefix("report: kvbench ").split())
    assert done.exit_code == 0, done.output
    for stage in ("score", "analyse", "run"):
        done = kvbench(stage, "g")
        assert done.exit_code == 0, done.output
    assert "0 answered, 0 failed, 60 stored before" in done.output


@pytest.mark.slow
def test_a_process_of_its_own_from_a_folder_without_any_mark(
    project: Project, mock: MockServer
) -> None:
    exp = bring(project)
    (project.path / "pyproject.toml").unlink()
    (project.path / "sub").mkdir()

    def kvbench(*words: str) -> str:
        command = [sys.executable, "-m", "pytest_kvbench.cli", *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=project.path / "sub",
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "60 answered" in kvbench("run", str(exp), "--dir", "../reports")
    assert "answers scored" in kvbench("score", "g", "--dir", "../reports")


def test_they_win_over_the_built_in_ones(project: Project, kvbench: Kvbench) -> None:
    exp = bring(project)
    for file in (exp, project.path / "conftest.py"):
        file.write_text(file.read_text().replace("mine/words", "niah/single"))
    assert project.run("-k", "bin0").ret == 0
    assert "\ng: 40 answered, 0 failed, 40 stored before" in kvbench("run", "g").output
    line = '{"prediction": "red1", "answers": ["red1"]}'
    Path("p.jsonl").write_text(line)
    assert kvbench("score-file", "niah/single", "p.jsonl").exit_code == 0


def test_a_conftest_is_left_alone_where_no_task_needs_it(
    project: Project, kvbench: Kvbench
) -> None:
    (project.path / "conftest.py").write_text("raise SystemExit('not to be loaded')")
    assert kvbench("validate", "exp.yaml").exit_code == 0
    assert kvbench("all", "exp.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nowhere", "conftest.py: cannot be asked for tasks: ModuleNotFoundError: No mod"),
        ("def pytest_kvbench_tasks(:", "SyntaxError"),
        ("raise SystemExit('gone')", "SystemExit: gone"),
        ("import pytest\npytest.exit('enough')", "enough"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def pytest_kvbench_tasks():\n    return {}['x']", "KeyError: 'x'"),
        ("def pytest_kvbench_tasks():\n    return ['mine/words']", "gave ['mine/words']"),
        ("pytest_plugins = ['nowhere']", "nowhere"),
        ("def pytest_kvbench_tasks():\n    return {'mine/other': None}", "Did you mean mine/o"),
        ("def pytest_kvbench_tasks():\n    return {'mine/words': lambda o: 1 / 0}", "ZeroDivision"),
        ("def pytest_kvbench_tasks():\n    return {'mine/words': 3}", "TypeError"),
        ("def pytest_kvbench_tasks():\n    return {7: 8, None: 9}", "gave {7: 8, None: 9}"),
        ("def pytest_kvbench_tasks():\n    return {'mine/words': lambda o: 3}", "made 3, which la"),
        ("def pytest_kvbench_tasks():\n    return {'mine/words': lambda o: None}", "lacks name, "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_conftest_is_two_lines(
    project: Project, kvbench: Kvbench, text: str, told: str
) -> None:
    bring(project, text=text)
    result = kvbench("prepare", "exp.yaml")
    assert result.exit_code == 4
    assert len(result.output.splitlines()) == 2, result.output
    assert told in result.output
