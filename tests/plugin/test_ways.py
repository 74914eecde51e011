"""However one asks, live or in batches, by pytest or the command line: the summary is the same."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse, Response

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

Body = dict[str, Any]


def slope(policy: str, budget: float) -> float:
    return 1.0 if policy == "none" else 0.4 + budget / 2


@dataclass(frozen=True)
class Scenario:
    """What is asked, and of what kind of server."""

    more: str = ""
    per_bin: str = "12"
    accuracy: Callable[[str, float], float] = slope
    wrong: str = "no"
    loses: Callable[[str], bool] = lambda prompt: False
    """Whether a request with this prompt fails, always."""
    late: str = "(?!)"
    """Requests whose prompt matches fail when they are asked for the first time."""
    runs: int = 1
    """Each hands over what is missing; in batches, another one fetches it."""
    is_sick: bool = False


SCENARIOS = {
    "slope": Scenario(),
    "sick control": Scenario(wrong="", accuracy=lambda policy, budget: 0.0, is_sick=True),
    "silent full cache": Scenario(
        wrong="", accuracy=lambda policy, budget: float(policy != "none"), is_sick=True
    ),
    "lost pairs": Scenario(loses=lambda prompt: bool(re.search(r"Say \w+[37]\b", prompt))),
    "odd replies": Scenario(wrong="I cannot help with that.\u2028\x00\ud7ff"),
    "resumed": Scenario(late=r"Say \w+[1-4]\b", runs=2),
    "trials": Scenario("sampling: {temperature: 0.5, trials: 2}\naa: true"),
    "voting": Scenario("sampling: {temperature: 0.7, self_consistency: 3}"),
    "sequential": Scenario(
        "sampling: {strategy: sequential}\ngate: {margin: 0.3}",
        per_bin="{min: 8, max: 40}",
        accuracy=lambda policy, budget: 0.05 if budget < 0.3 else 1.0,
        runs=3,
    ),
    "variants": Scenario("variants: {plain: {}, polite: {before: 'Please. '}}"),
}


class Servers:
    """A live server and one of batches that answer the same."""

    def __init__(self, scenario: Scenario, mock: MockServer, batch: BatchServer) -> None:
        self.mock, self.batch = mock, batch
        self._scenario, self._asked = scenario, set[str]()
        mock.accuracy, mock.wrong = scenario.accuracy, scenario.wrong
        mock.trouble = self._refused
        batch.reply = mock.completion
        batch.error = lambda line: {"code": "no", "message": "no"} if self._fails(line) else None

    def _fails(self, line: Body) -> bool:
        return self._refused(0, line["body"]) is not None

    def _refused(self, number: int, body: Body) -> Response | None:
        text = "".join(part["text"] for part in body["messages"][-1]["content"])
        asked, is_new = f"{text}{body['kv']}", f"{text}{body['kv']}" not in self._asked
        self._asked.add(asked)
        if self._scenario.loses(text) or (is_new and re.search(self._scenario.late, text)):
            return JSONResponse({"error": {"message": "no"}}, status_code=400)
        return None


def experiment(server: str, mode: str, scenario: Scenario) -> str:
    engine = f'{{name: local, model: mock, base_url: "{server}", retries: 0, mode: {mode}}}'
    return f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 2, per_bin: {scenario.per_bin}, edges: [150]}}
kv: {{policies: [snapkv], budgets: [1.0, 0.5, 0.2]}}
engine: {engine}
tokenizer: approximate
{scenario.more}
"""


def by_pytest(*options: str) -> Callable[[Project], int]:
    def run(project: Project) -> int:
        return int(project.run(*options).ret)

    return run


def by_command(project: Project) -> int:
    codes = [CliRunner().invoke(main, [stage, "exp.yaml"]).exit_code for stage in STAGES]
    return max(codes, default=0)


STAGES = ("run", "score", "analyse")
WAYS = {
    "pytest, live": ("live", by_pytest("-n", "0")),
    "kvbench, live": ("live", by_command),
    "pytest, batch": ("batch", by_pytest("-n", "0")),
    "kvbench, batch": ("batch", by_command),
}


@contextlib.contextmanager
def serving(scenario: Scenario) -> Iterator[Servers]:
    with MockServer() as mock, BatchServer() as batch:
        yield Servers(scenario, mock, batch)


def measured(project: Project, scenario: Scenario, way: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the last run, and the summary."""
    mode, run = WAYS[way]
    with serving(scenario) as servers:
        base_url = servers.mock.base_url if mode == "live" else servers.batch.base_url
        text = experiment(base_url, mode, scenario)
        (project.path / "exp.yaml").write_text(text, encoding="utf-8")
        for _ in range(scenario.runs * (1 if mode == "live" else 2)):
            status = run(project)
    return status, project.summary()


def told(summary: dict[str, Any], *, sick: bool) -> dict[str, Any]:
    """What must not depend on how one asked.

    Of a sick control's treatments some ways ask a few and others all: none of them counts.
    """
    names = ("verdict", "verdict_holm", "n", "control_mean", "treated_mean", "delta", "lost")
    cells = {
        tuple(cell[name] for name in ("task", "bin", "variant", "policy", "budget")): [
            cell[name] for name in names
        ]
        for cell in summary["cells"]
    }
    if sick:
        controls = [c for c in summary["cells"] if c["policy"] == "none"]
        words = {c["verdict"] for c in summary["cells"] if c["policy"] != "none"}
        return {"sick": [bool(c["reason"]) for c in controls], "verdicts": words}
    integrity = summary["integrity"]
    counts = {key: value for key, value in integrity.items() if isinstance(value, int | float)}
    drawn = summary.get("sampling")
    return {"cells": cells, "missing": summary["missing"], "counts": counts, "drawn": drawn}


@pytest.fixture
def fresh(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Project]:
    """A project of its own for every way, with the same data and items."""
    monkeypatch.setattr(sys, "argv", ["kvbench"])
    here, rows = project.path, (project.path / "words.jsonl").read_bytes()
    items = {path.name: path.read_bytes() for path in here.glob("*.py")}

    def make(way: str) -> Project:
        folder = here / re.sub(r"\W+", "-", way)
        folder.mkdir()
        for name, content in {**items, "words.jsonl": rows, "pytest.ini": b"[pytest]\n"}.items():
            (folder / name).write_bytes(content)
        monkeypatch.chdir(folder)
        return Project(project.pytester, folder)

    return make


@pytest.mark.parametrize("name", SCENARIOS)
def test_however_one_asks_the_summary_is_the_same(
    name: str, fresh: Callable[[str], Project]
) -> None:
    scenario = SCENARIOS[name]
    found = {way: measured(fresh(way), scenario, way) for way in WAYS}
    first = told(found["pytest, live"][1], sick=scenario.is_sick)
    for way, (status, summary) in found.items():
        assert told(summary, sick=scenario.is_sick) == first, way
        assert status == found["pytest, live"][0], way
        assert status == 1 or not scenario.is_sick
    if scenario.is_sick:
        assert all(first["sick"])
        assert first["verdicts"] == {"not-measured"}


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_control_that_is_not_sane_is_exit_status_1(
    mode: str, fresh: Callable[[str], Project]
) -> None:
    project, scenario = fresh(mode), SCENARIOS["silent full cache"]
    measured(project, scenario, f"kvbench, {mode}")
    for arguments in (["wait", "g", "--then", "score"], ["analyse", "g"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1, done.output
        assert "useless" in done.stderr.splitlines()[-1]
    assert "useless" in json.dumps(project.summary())
