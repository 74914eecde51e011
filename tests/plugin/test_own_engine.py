"""An engine of a user's, by its class or a name: pytest, its workers and the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli import given
from pytest_kvbench.cli.stages import main
from pytest_kvbench.engines.own import CLASSES
from tests.conftest import Project

ENGINE = '''
import json
from pathlib import Path

from pytest_kvbench.engines.own import Reply

LOG = Path(__file__).with_name("asked.jsonl")
MADE = Path(__file__).with_name("made.txt")


class MyEngine:
    """Says the word that it is told to say, and another under half a budget."""

    def __init__(self, model, threads=None):
        with MADE.open("a") as file:
            file.write(f"{model}\\n")

    def generate(self, messages, arm):
        with LOG.open("a") as file:
            file.write(json.dumps([arm.policy, arm.budget, dict(arm.params), arm.chat]) + "\\n")
        word = messages[-1]["content"].rsplit("Say ", 1)[1].split()[0]
        return self.reply(word if arm.budget > 0.3 else "nothing", arm)

    def reply(self, text, arm):
        kept = round(1000 * arm.budget)
        return Reply(text, new_tokens=1, kept_bytes=kept, full_bytes=1000)
'''
CONFTEST = """
def pytest_kvbench_engines():
    return {"mine": "./myengine.py:MyEngine"}
"""


@pytest.fixture
def engine(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that asks an engine of its own, by its file."""
    monkeypatch.setenv("KVBENCH_CACHE", str(project.path / "cache"))
    monkeypatch.delenv("KVBENCH_DIR", raising=False)
    (project.path / "myengine.py").write_text(ENGINE)
    declare(project, "./myengine.py:MyEngine")
    return project


def declare(project: Project, name: str, policy: str = "half", **keys: str) -> None:
    """Name the engine in the experiment, and no address."""
    file = project.path / "exp.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("engine:")]
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    lines += [f'engine: {{name: "{name}", model: m{more}}}']
    file.write_text("\n".join(lines).replace("[snapkv]", f"[{policy}]") + "\n")


def asked(project: Project) -> list[list[object]]:
    file = project.path / "asked.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def verdicts(project: Project) -> dict[float, str]:
    cells = project.summary()["cells"]
    return {cell["budget"]: cell["verdict"] for cell in cells if cell["bin"] == "all"}


def kvbench(*words: str) -> str:
    done = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_is_measured_and_proven_and_asked_once(engine: Project) -> None:
    assert engine.run("-n", "0").ret == 0
    assert verdicts(engine) == {0.5: "undetermined", 0.2: "breaks"}
    cells = engine.summary()["cells"]
    assert {(cell["budget"], cell["achieved"], cell["proof"]) for cell in cells} == {
        (budget, budget, "proven") for budget in (1.0, 0.5, 0.2)
    }
    arms = {(policy, budget) for policy, budget, _, _ in asked(engine)}
    assert arms == {("none", 1.0), ("half", 0.5), ("half", 0.2)}
    assert len(asked(engine)) == 60
    assert engine.run("-n", "0").ret == 0
    assert len(asked(engine)) == 60
    assert (engine.path / "made.txt").read_text() == "m\n"


def test_a_changed_file_is_another_engine(engine: Project) -> None:
    engine.run("-n", "0", "-k", "bin0")
    before = len(asked(engine))
    file = engine.path / "myengine.py"
    file.write_text(file.read_text().replace("> 0.3", "> 0.6"))
    engine.run("-n", "0", "-k", "bin0")
    assert len(asked(engine)) == 2 * before
    assert verdicts(engine)[0.5] == "breaks"


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_conftest_gives_it_a_name(engine: Project, n: str) -> None:
    """One that the controller of workers does not load, and the command line neither by itself."""
    declare(engine, "mine")
    (engine.path / "pyproject.toml").touch()
    place = engine.path / "deeper"
    place.mkdir()
    (place / "conftest.py").write_text(CONFTEST.replace("./", "../"))
    for name in ("exp.yaml", "test_exp.py"):
        (engine.path / name).rename(place / name)
    assert engine.run("-n", n).ret == 0
    assert (engine.path / "made.txt").read_text() == "m\n"  # one for both workers
    for words in (("analyse", "g"), ("run", "deeper/exp.yaml")):
        CLASSES.brought.clear()  # by what this process did before
        given._load.cache_clear()
        done = kvbench(*words)
    assert "0 answered, 0 failed, 60 stored before" in done


ASKING = """
import pytest
from pytest_kvbench.errors import EngineError, UsageError

def test_a_text(engine):
    reply = engine.generate("Now Say red")
    assert (reply.text, reply.kept_bytes, reply.full_bytes) == ("red", 1000, 1000)

def test_an_arm(engine):
    messages = [{"role": "user", "content": "Say blue"}]
    reply = engine.generate(messages, policy="half", budget=0.2, params={"w": 1})
    assert (reply.text, reply.kept_bytes) == ("nothing", 200)

def test_what_it_raises(engine):
    with pytest.raises(EngineError, match="IndexError"):
        engine.generate("no word to say")
    with pytest.raises(UsageError, match="one message"):
        engine.generate([])
"""


@pytest.mark.parametrize("n", ["0", "1"])
def test_tests_of_ones_own_ask_it(engine: Project, n: str) -> None:
    (engine.path / "test_exp.py").write_text(ASKING)
    name = "--kvbench-engine=./myengine.py:MyEngine"
    result = engine.run("-n", n, name, "--kvbench-model=m")
    result.assert_outcomes(passed=3)
    assert not list(engine.path.rglob("*.sqlite"))
    assert (engine.path / "made.txt").read_text() == "m\n"
    assert ["half", 0.2, {"w": 1}, True] in asked(engine)


def test_a_cells_own_engine_is_asked_too(engine: Project) -> None:
    test = engine.path / "test_exp.py"
    test.write_text(
        test.read_text().replace("control):", "control, engine):")
        + "\n    assert engine.generate('Say red', cell).text == 'red'\n"
    )
    assert engine.run("-n", "0", "-k", "bin0 and control").ret == 0
