"""Fixtures of several test folders."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore  # noqa: F401 -- an inner pytest would forget it, and httpx keep the errors of that one
import hypothesis
import pandas.core.arrays.arrow.extension_types  # noqa: F401 -- pyarrow takes them only once
import pytest
import tenacity

import pytest_kvbench
from pytest_kvbench.engines import completion, retry
from pytest_kvbench.pipeline import judge as judge_stage
from pytest_kvbench.pipeline import judge_process
from pytest_kvbench.records import Telemetry
from pytest_kvbench.report import plots
from pytest_kvbench.report.plots import saved
from tests.support import remembered
from tests.support.mock_server import MockServer

# Most plugin tests start Python several times: compiling everything each time would double theirs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# No test needs a hub, and one that cannot be reached is tried for 23 seconds.
os.environ["HF_HUB_OFFLINE"] = "1"

# Under CI pytest prints its short summary whole: what is printed must not depend on who asks.
os.environ.pop("CI", None)
os.environ.pop("BUILD_NUMBER", None)

# A deadline is a timed assertion. Every run tries other examples: half of the usual number does.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=50)
hypothesis.settings.load_profile("untimed")

# What an inner pytest imports it forgets again: half a second for each run, and numpy can be loaded
# only once.
_APART = (
    "pytest_kvbench.server",
    "pytest_kvbench.executors",
    "pytest_kvbench.posterior.density",
    "pytest_kvbench.posterior.outcomes",
    "pytest_kvbench.posterior.slices",
)


class Installed:
    """An installed package that is read once."""

    def __init__(self, found: importlib.metadata.Distribution) -> None:
        self._found = found

    def __getattr__(self, name: str) -> Any:
        return self.__dict__.setdefault(name, getattr(self._found, name))


def read_once() -> None:
    """Each inner pytest looks for its plugins in all that is installed, twice: a tenth of a run."""
    every = [Installed(found) for found in importlib.metadata.distributions()]
    anew = importlib.metadata.distributions
    importlib.metadata.distributions = lambda **of: anew(**of) if of else iter(every)


def pytest_configure(config: pytest.Config) -> None:
    """Import what tests need, but in a process that only hands them out."""
    if getattr(config.option, "numprocesses", None):
        return
    for module in pkgutil.walk_packages(pytest_kvbench.__path__, "pytest_kvbench."):
        if not module.name.startswith(_APART) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    read_once()
    gc.freeze()  # a search for garbage takes a tenth of a second with all that was just imported
    gc.set_threshold(5_000, 20, 50)  # and thousands of tests leave more


WORDS = [f"{a}{b}" for a in ("red", "blue", "green", "grey", "pink") for b in range(20)]


@pytest.fixture(autouse=True)
def judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged in this process."""
    monkeypatch.setattr(judge_stage.Question, "answer", remembered.answer)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is tried again at once, unless its server asks for a pause."""
    monkeypatch.setattr(retry, "_BACKOFF", tenacity.wait_none())


@pytest.fixture
def pictures() -> None:
    """Reports have their pictures, which take half of a small run."""


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of pictures that reports have, without what is in them."""
    monkeypatch.setattr(saved, "_picture", lambda *_, **__: b"blank")


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """None are drawn, but where a test uses `pictures` or `blank_pictures`."""
    if not {"pictures", "blank_pictures"} & set(request.fixturenames):
        monkeypatch.setattr(plots, "draw_all", lambda *_: ())


@pytest.fixture
def mock() -> Iterator[MockServer]:
    """A healthy scripted server."""
    with MockServer() as server:
        yield server


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """What is started now hears Ctrl-C: a script's background jobs, and what they start, do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass
class Project:
    """A project that uses the plugin: 2 bins of 10 examples, budgets 1.0, 0.5 and 0.2."""

    pytester: pytest.Pytester
    path: Path

    def run(self, *args: str, **how: bool) -> pytest.RunResult:
        """Pytest within this process, where all it imports is at hand; its workers are real.

        `how`: as `pytester.inline_run` has it.
        """
        imported = "-Wignore::pytest.PytestAssertRewriteWarning"
        return self.pytester.runpytest_inprocess(imported, *args, **how)

    def summary(self, group: str = "g") -> dict[str, Any]:
        text = (self.path / "reports" / group / "summary.json").read_text(encoding="utf-8")
        data: dict[str, Any] = json.loads(text)
        return data


class AnalystHere:
    """In place of the analyst's process: pandas is in this one, and each would load it anew."""

    judge = staticmethod(judge_stage.judge)

    def warm(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies take none, so that the same answers are the same to the millisecond too."""
    timed = completion._telemetry

    def at_once(choice: Any, reply: Any, latency_s: float | None, *rest: Any) -> Telemetry:
        return timed(choice, reply, latency_s and 0.0, *rest)

    monkeypatch.setattr(completion, "_telemetry", at_once)


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    pytester: pytest.Pytester,
    mock: MockServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """An experiment on the mock server. Its replies take time where a test is marked `timed`."""
    if not request.node.get_closest_marker("timed"):
        request.getfixturevalue("no_time")
    monkeypatch.setattr(judge_process, "Analyst", AnalystHere)
    # What else is installed takes half of a start, and each worker starts.
    monkeypatch.setenv("PYTEST_ADDOPTS", "--disable-plugin-autoload -p xdist -p kvbench")
    rows = [
        {
            "question": f"Say {word}",
            "context": f"text{n} " * (20 + 200 * (n % 2)),
            "answers": [word],
        }
        for n, word in enumerate(WORDS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (pytester.path / "words.jsonl").write_text(lines, encoding="utf-8")
    (pytester.path / "exp.yaml").write_text(
        f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 2, per_bin: 10, edges: [150]}}
kv: {{policies: [snapkv], budgets: [1.0, 0.5, 0.2]}}
engine: {{name: local, model: mock, base_url: "{mock.base_url}", retries: 1}}
tokenizer: approximate
""",
        encoding="utf-8",
    )
    pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml")
        def test_quality(cell, control):
            cell.compare(control).check()
        """
    )
    return Project(pytester, pytester.path)
