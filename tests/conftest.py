"""Fixtures of several test folders."""

from __future__ import annotations

import importlib
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

import pytest_kvbench
from pytest_kvbench.pipeline import judge as judge_stage
from pytest_kvbench.pipeline import judge_process
from pytest_kvbench.report import plots
from tests.support.mock_server import MockServer

# Most plugin tests start Python several times: compiling everything each time would double theirs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# No test needs a hub, and one that cannot be reached is tried for 23 seconds.
os.environ["HF_HUB_OFFLINE"] = "1"

# Under CI pytest prints its short summary whole: what is printed must not depend on who asks.
os.environ.pop("CI", None)
os.environ.pop("BUILD_NUMBER", None)

# A deadline is a timed assertion.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# What an inner pytest imports it forgets again: half a second for each run, and numpy can be loaded
# only once.
_APART = (
    "pytest_kvbench.server",
    "pytest_kvbench.executors",
    "pytest_kvbench.plugin",
    "pytest_kvbench.posterior.density",
    "pytest_kvbench.posterior.outcomes",
    "pytest_kvbench.posterior.slices",
)


def pytest_configure(config: pytest.Config) -> None:
    """Import what tests need, but in a process that only hands them out."""
    if getattr(config.option, "numprocesses", None):
        return
    for module in pkgutil.walk_packages(pytest_kvbench.__path__, "pytest_kvbench."):
        if not module.name.startswith(_APART) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


WORDS = [f"{a}{b}" for a in ("red", "blue", "green", "grey", "pink") for b in range(20)]


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
        foreign = (
            "no:benchmark",
            "no:hypothesispytest",
            "no:anyio",
            "no:zarr",
        )  # slow to load, not ours
        imported = "ignore::pytest.PytestAssertRewriteWarning"
        options = [*(f"-p{name}" for name in foreign), f"-W{imported}"]
        return self.pytester.runpytest_inprocess(*options, *args, **how)

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
def pictures() -> None:
    """The project's reports have their pictures, which take half of a small run."""


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    pytester: pytest.Pytester,
    mock: MockServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """An experiment on the mock server."""
    monkeypatch.setattr(judge_process, "Analyst", AnalystHere)
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "draw_all", lambda *_: ())
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
