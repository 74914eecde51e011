"""The blocks and commands of README, docs/ and CONTRIBUTING, run as they stand."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.experiment import load
from pytest_kvbench.ops import starting
from tests.conftest import Project
from tests.support import pages
from tests.support.mock_server import MockServer

NOT_RUN = {
    "make ": "sets everything up: CI runs make lint and make test, and measures by make sanity",
    "pip install ": "as make install does",
    "python3 -m venv ": "as make install does",
    ". .venv/": "a shell's own",
    "less ": "a pager: that its file is there is checked",
    "kvbench serve": "loads the model: tests/model start it",
    "kvbench view": "serves a page until it is told to stop",
    "kvbench reproduce ": "needs a card: tests/plugin/test_reproduce.py has one",
    "kvbench leaderboard ": "needs cards: tests/unit/ops/test_cards.py has some",
    "curl ": "asks that server",
    "pytest tests": "this is one of them",
    "python tests/benchmarks/": "minutes each",
    "python -m tests.support.generated": "tests/unit/test_docs.py compares what it writes",
    "python -m tests.support.every_policy": "half an hour: tests/model/test_policies.py",
    "kvbench posterior": "compiles and samples: tests/model/test_posterior.py",
    "kvbench batch ": "needs a server that keeps batches: tests/unit/batch/test_batch.py has one",
}
"""Beginnings of commands that no test runs, and why."""

NO_MODEL = ("tokenizer=approximate", "engine.base_url=http://127.0.0.1:9/v1")
"""What counts tokens without unpacking the model."""

STAND_INS = {
    "init http://127.0.0.1:8000/v1 http://127.0.0.1:8001/v1": "init",  # it finds the scripted one
    "-n 8": "-n 0",  # what many workers do is tested elsewhere
    "inspect niah/single": f"inspect niah/single {' '.join(f'--set {key}' for key in NO_MODEL)}",
}
FAILS = {"pytest evals/test_submission.py --kvbench-set gate.mode=gate": 1}
"""Exit statuses other than 0. Every budget below 1 breaks."""

STARTED = {"engine.log", "engine-*.log"}
"""Of a group's files: those of servers that were started, which the scripted one was not."""

GROUNDED = {f"by_model_{name}.csv" for name in ("grounding", "correlations")}
"""What `aggregate` writes where answers bring their evidence, which none does here."""

_POSTERIOR = ("meta.json", "analysis.json", "trace.nc", "timings.json", "diagnostics/*.png")
SAMPLED = {f"runs/posteriors/post_*_*/{name}" for name in _POSTERIOR}
"""What `kvbench posterior` writes, which is not run here."""


def needle(prompt: str) -> str:
    """The answer to `niah/single`, or to `Say WORD`."""
    if "Say " in prompt:
        return prompt.rsplit("Say ", 1)[1].split()[0]
    (key,) = re.findall(r"What is the secret number of (.+?)\?", prompt)
    (value,) = re.findall(rf"The secret number of {re.escape(key)} is (\d+)", prompt)
    return str(value)


@pytest.fixture
def reader(project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch) -> Project:
    """What a reader of the pages has: `evals/` (of a scripted server) and their own files."""
    mock.word_of = needle
    mock.accuracy = lambda policy, budget: float(budget == 1)
    for mine in ("test_exp.py", "exp.yaml", "words.jsonl"):
        (project.path / mine).unlink()
    shutil.copytree(pages.ROOT / "evals", project.path / "evals", ignore=_caches)
    (project.path / "evals/test_policies.py").unlink()  # the largest, and no command names it
    experiments = project.path / "evals/experiments"
    engine = f'{{name: local, model: mock, base_url: "{mock.base_url}"}}'
    monkeypatch.setattr(starting, "PORTS", (mock.port,))
    monkeypatch.setattr(load, "PACKAGED", project.path)
    (project.path / "default.yaml").write_text(f"engine: {engine}\ntokenizer: approximate\n")
    (project.path / "my.yaml").write_text(pages.block("yaml", "group: my_experiment"))
    for declared in (project.path / "my.yaml", *experiments.glob("*.yaml")):
        few = re.sub(
            r"bins: \{n: \d, per_bin: \d+", "bins: {n: 2, per_bin: 4", declared.read_text()
        )
        declared.write_text(few)  # a third of the time
    (project.path / "p.jsonl").write_text('{"prediction": "It is 12.", "answers": ["12"]}\n')
    for side in ("full", "small"):
        lines = "".join(f'{{"id": {n}, "score": 1}}\n' for n in range(40))
        (project.path / f"{side}.jsonl").write_text(lines)
    with (project.path / "pairs.csv").open("w", newline="") as file:
        header = ["task", "bin", "policy", "budget", "example_id", "cluster", "control", "treated"]
        rows = [("t", 0, "p", 0.5, f"e{n}", f"c{n}", 1.0, n % 2) for n in range(40)]
        csv.writer(file).writerows([header, *rows])
    return project


_caches = shutil.ignore_patterns("__pycache__")


def run(project: Project, command: str) -> None:
    """One command, as written but for its stand-ins."""
    wanted, written = FAILS.get(command, 0), command
    for words, instead in STAND_INS.items():
        if written.endswith(words) or f"{words} " in written:
            written = written.replace(words, instead)
            break
    name, *args = shlex.split(written)
    if name == "pytest":
        status = int(project.run(*args).ret)
        assert status == wanted, command
        return
    if "ARCHIVE" in args:
        (archive,) = project.path.glob("reports/*.kvbench.tar.gz")
        args[args.index("ARCHIVE")] = str(archive)
    done = CliRunner().invoke(main, args, catch_exceptions=False)
    assert done.exit_code == wanted, f"{command}\n{done.output}"


@pytest.mark.usefixtures("blank_pictures")
def test_every_command_runs_and_leaves_what_is_said(reader: Project) -> None:
    runnable = [c for c in pages.commands() if not c.startswith(tuple(NOT_RUN))]
    assert len(runnable) > 30
    assert {c.split()[0] for c in runnable} == {"pytest", "kvbench"}
    for command in runnable:
        run(reader, command)
    for command in pages.commands():
        if command.startswith("less "):
            assert (reader.path / command.split()[1]).is_file()
    found_as_in_the_tree(reader.path)
    tables_read_as_said(reader.path)


def found_as_in_the_tree(project: Path) -> None:
    """The trees name what is there; the one in docs/ all that is there."""
    short, tree = map(pages.tree, (b for b in pages.blocks("text") if "kvbench.sqlite" in b))
    assert not [path for path in short if not list(project.glob(path))]
    lacking = [path for path in tree if not list(project.glob(path))]
    names = {
        path.removeprefix("reports/*/").removeprefix("reports/_aggregate/") for path in lacking
    }
    assert names == STARTED | GROUNDED | SAMPLED
    named = {file for path in tree for file in project.glob(path)}
    left = [
        file
        for file in project.glob("reports/**/*")
        if file.is_file() and "lock" not in file.name and file.name != ".state.json"
    ]
    assert not [file for file in left if not named & {file, *file.parents}]


def tables_read_as_said(project: Path) -> None:
    """The data set and a group's frames, by the pages' lines for Python; SQL by its path alone."""
    (sql,) = pages.blocks("sql")  # run by hand: a test that needs DuckDB would be its only user
    (files,) = re.findall(r"read_parquet\('(.+?)'\)", sql)
    assert list(project.glob(files))
    gathered = (
        pages.block("python", "read_parquet").rstrip().replace("pandas.r", "table = pandas.r")
    )
    frames: dict[str, object] = {}
    exec(gathered, frames)
    assert {"task", "policy", "budget", "delta", "verdict"} <= set(frames["table"])  # type: ignore[call-overload]
    exec(pages.block("python", "load_group").replace("group.a", "tables = group.a"), frames)
    assert all(len(table) for table in frames["tables"])  # type: ignore[attr-defined]


def test_the_task_of_ones_own(project: Project, mock: MockServer) -> None:
    mock.word_of = lambda prompt: "Rome"
    (project.path / "conftest.py").write_text(pages.block("python", "pytest_kvbench_tasks"))
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
    (pytester.path / "evals").symlink_to(pages.ROOT / "evals")
    (pytester.path / "my.yaml").write_text(pages.block("yaml", "group: my_experiment"))
    pytester.makepyfile(test_mine=pages.block("python", '"my.yaml"'))
    result = pytester.runpytest_subprocess("--kvbench-plan", "test_mine.py", timeout=120)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*15 cells*"])
