"""Names that a conftest gives, where Parsl's workers answer and build: they load no conftest."""

from __future__ import annotations

import pytest

from pytest_kvbench.cli import given
from pytest_kvbench.engines.own import CLASSES
from tests.conftest import Project
from tests.plugin.test_own_engine import asked, declare, kvbench, verdicts
from tests.plugin.test_own_engine import engine as engine

CONFTEST = """
from pytest_kvbench.tasks.rows import RowTask

ROWS = [
    {"question": f"Say {n}", "context": f"text{n} " * (20 + 200 * (n % 2)), "answers": [f"{n}"]}
    for n in range(10, 50)
]

def words(options):
    return RowTask(name="mine/words", rows=lambda: ROWS, **options)

def pytest_kvbench_tasks():
    return {"mine/words": words}

def pytest_kvbench_engines():
    return {"mine": "./myengine.py:MyEngine"}
"""


@pytest.fixture
def below(engine: Project) -> Project:
    """A project whose tests, engine, and conftest that names it are in a folder below its root."""
    declare(engine, "mine")
    (engine.path / "pyproject.toml").touch()
    place = engine.path / "below"
    place.mkdir()
    (place / "conftest.py").write_text(CONFTEST)
    for name in ("exp.yaml", "test_exp.py", "myengine.py"):
        (engine.path / name).rename(place / name)
    exp = (place / "exp.yaml").read_text().replace("jsonl:words.jsonl", "mine/words")
    (place / "exp.yaml").write_text(exp + "executor: {name: parsl, workers: 2}\n")
    return Project(engine.pytester, engine.path)


def forget() -> None:
    """What this process was given."""
    CLASSES.brought.clear()
    given._load.cache_clear()


def test_workers_of_parsl_know_a_conftests_names(below: Project) -> None:
    forget()
    assert below.run("-n", "0").ret == 0
    assert verdicts(below) == {0.5: "undetermined", 0.2: "breaks"}
    place = Project(below.pytester, below.path / "below")
    assert len(asked(place)) == 60
    assert (place.path / "made.txt").read_text() == "m\n"


@pytest.mark.parametrize(
    "name", ["./myengine.py:MyEngine", pytest.param("myengine:MyEngine", marks=pytest.mark.slow)]
)
def test_wherever_workers_start_a_relative_name_counts_from_the_runs_folder(
    engine: Project, name: str
) -> None:
    declare(engine, name)
    with (engine.path / "exp.yaml").open("a") as exp:
        exp.write("executor: {name: parsl, workers: 1, worker_init: cd /}\n")
    assert "60 answered, 0 failed" in kvbench("run", "exp.yaml")
    assert len(asked(engine)) == 60


@pytest.mark.slow
def test_workers_that_build_a_store_know_them_too(below: Project) -> None:
    assert below.run("-n", "0").ret == 0
    forget()
    assert "2 runs made" in kvbench("targets", "below/exp.yaml")
    assert len(list((below.path / "runs/targets").glob("*/run_half_*"))) == 2


def test_a_file_counts_from_the_folder_of_who_names_it(below: Project) -> None:
    exp = below.path / "below/exp.yaml"
    exp.write_text(exp.read_text().replace("executor: {name: parsl, workers: 2}\n", ""))
    (below.path / "myengine.py").write_text("raise RuntimeError('another file of that name')")
    forget()
    assert below.run("-n", "0").ret == 0
    assert len(asked(Project(below.pytester, below.path / "below"))) == 60
