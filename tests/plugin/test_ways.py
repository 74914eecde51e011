"""However one asks, live or in batches, by pytest or the command line: the summary is the same."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse, Response

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.forced_server import ForcedServer
from tests.support.mock_server import MockServer, prompt_in

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
    cut: signal.Signals | None = None
    """What ends a first run in the middle."""
    runs: int = 1
    """Each hands over what is missing; in batches, another one fetches it."""
    rounds: int = 1
    """In batches each is handed over when the one before is fetched."""
    arms: tuple[tuple[str, float], ...] = ()
    """Each has a server of its own; else one server is told of every arm."""
    is_sick: bool = False
    context: int | None = None
    """Tokens of a prompt that its server keeps, and counts."""
    unmeasured: str = ""
    """Why cells of the longer bin are not; how many of them are asked is left to each way."""

    @property
    def bins(self) -> tuple[int, ...]:
        """Those that are measured in full, however one asks."""
        return (0,) if self.unmeasured else (0, 1)

    choice: Callable[[Body, str], Body] = lambda choice, prompt: {}
    """What differs in a choice, given it and its prompt."""


def thinks(choice: Body, prompt: str) -> Body:
    thought = f"<think>{prompt[-40:]}? No, no, no.</think>\n\n"
    return {"message": {"content": thought + choice["message"]["content"]}}


def breaks_off(choice: Body, prompt: str) -> Body:
    reasons = ["error", None, "network_error", {"type": "abort", "message": "oom"}]
    return {"finish_reason": reasons[len(prompt) % 4]} if LOST.search(prompt) else {}


def is_silent_on_short_prompts(choice: Body, prompt: str) -> Body:
    return {"message": {"content": ""}} if len(prompt) < 600 else {}


def knows_nothing(choice: Body, prompt: str) -> Body:
    return {} if "text" in prompt else {"message": {"content": "no"}}


def knows_short_ones(choice: Body, prompt: str) -> Body:
    return {"message": {"content": "blue"}} if len(prompt) > 600 else {}


LOST = re.compile(r"Say \w+[37]\b")
SCENARIOS = {
    "slope": Scenario(),
    "sick control": Scenario(wrong="", accuracy=lambda policy, budget: 0.0, is_sick=True),
    "silent full cache": Scenario(
        wrong="", accuracy=lambda policy, budget: float(policy != "none"), is_sick=True
    ),
    "silent on short prompts": Scenario(choice=is_silent_on_short_prompts, is_sick=True),
    "lost pairs": Scenario(loses=lambda prompt: bool(LOST.search(prompt))),
    "broken off": Scenario(choice=breaks_off),
    "cut prompts": Scenario(
        context=100,
        unmeasured="pairs have a prompt that the server cut: the server counts 100 tokens of 227 "
        "(medians)",
    ),
    "thinking": Scenario(choice=thinks),
    "odd replies": Scenario(wrong="I cannot help with that.\u2028\x00\ud7ff"),
    "resumed": Scenario(late=r"Say \w+[1-4]\b", runs=2),
    "killed": Scenario(cut=signal.SIGKILL),
    "Ctrl-C": Scenario(cut=signal.SIGINT),
    "trials": Scenario("sampling: {temperature: 0.5, trials: 2}\naa: true"),
    "voting": Scenario("sampling: {temperature: 0.7, self_consistency: 3}"),
    "sequential": Scenario(
        "sampling: {strategy: sequential}\ngate: {margin: 0.3}",
        per_bin="{min: 8, max: 40}",
        accuracy=lambda policy, budget: 0.05 if budget < 0.3 else 1.0,
        rounds=3,
    ),
    "variants": Scenario("variants: {plain: {}, polite: {before: 'Please. '}}"),
    "context withheld": Scenario("sensitivity: {policy: withheld}", choice=knows_nothing),
    "lost in long prompts": Scenario(
        choice=knows_short_ones,
        unmeasured="the full cache scores 0.000, not above gate.control_floor (0): there is "
        "nothing to lose",
    ),
    "divergence": Scenario("measure: [score, divergence]"),
    "divergence, killed": Scenario("measure: divergence", cut=signal.SIGKILL),
    "divergence in rounds": Scenario(
        "measure: divergence\nsampling: {strategy: sequential}\n"
        "gate: {divergence: {measure: same_top, margin: 0.3}}",
        per_bin="{min: 8, max: 40}",
        rounds=6,
    ),
    "two engines": Scenario(arms=(("none", 1.0), ("q8_0", 0.53))),
}


class Servers:
    """Live servers and those of batches that answer the same."""

    def __init__(self, scenario: Scenario, live: list[MockServer], batch: list[BatchServer]):
        self.live, self.batch = live, batch
        self.victim: tuple[int, signal.Signals] | None = None
        self._scenario, self._asked = scenario, set[str]()
        for mock, arm in zip(live, scenario.arms or [("none", 1.0)], strict=True):
            mock.accuracy, mock.wrong, mock.arm = scenario.accuracy, scenario.wrong, arm
            mock.trouble = self._refused
            mock.completion = self._twisted(mock.completion)  # type: ignore[method-assign]
        for mock, server in zip(live, batch, strict=True):
            server.reply, server.after = mock.completion, self._heard
            server.error = self._error

    def _twisted(self, complete: Callable[[Body], Body]) -> Callable[[Body], Body]:
        def reply(body: Body) -> Body:
            whole, prompt = complete(body), prompt_in(body)
            choices = [{**c, **self._scenario.choice(c, prompt)} for c in whole["choices"]]
            usage = dict(whole["usage"])
            if self._scenario.context is not None:
                usage["prompt_tokens"] = min(usage["prompt_tokens"], self._scenario.context)
            return {**whole, "choices": choices, "usage": usage}

        return reply

    def _error(self, line: Body) -> Body | None:
        return self._fault_of(line["body"]) and {"code": "no", "message": "no"}

    def _refused(self, number: int, body: Body) -> Response | None:
        if number >= MIDDLE:
            self._cut()
        fault = self._fault_of(body)
        return JSONResponse({"error": {"message": fault}}, status_code=400) if fault else None

    def _fault_of(self, body: Body) -> str:
        text = prompt_in(body)
        asked = f"{text}{body.get('kv')}{body.get('seed')}"
        is_new = asked not in self._asked
        self._asked.add(asked)
        late = is_new and re.search(self._scenario.late, text)
        return "no" if late or self._scenario.loses(text) else ""

    def _heard(self, action: str) -> None:
        if action == "create":
            self._cut()

    def _cut(self) -> None:
        if self.victim is not None:
            os.kill(*self.victim)
            self.victim = None


MIDDLE = 5
"""The number of the request at which a live run is cut short."""


def experiment(servers: Servers, mode: str, scenario: Scenario) -> str:
    urls = [one.base_url for one in (servers.batch if mode == "batch" else servers.live)]
    engine = f'name: local, model: mock, base_url: "{urls[0]}"'
    kv = "policies: [snapkv], budgets: [1.0, 0.5, 0.2]"
    if scenario.arms:
        (_, one), (policy, two) = zip(("none", "q8_0"), urls, strict=True)
        engine = f'name: openai, model: mock, endpoints: {{none: "{one}", {policy}: "{two}"}}'
        kv = f"policies: [{policy}], budgets: [1.0]"
    executor = "executor: {name: parsl, workers: 1}" if mode == "parsl" else ""
    return f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 2, per_bin: {scenario.per_bin}, edges: [150]}}
kv: {{{kv}}}
engine: {{{engine}, retries: 0, mode: {"batch" if mode == "batch" else "live"}}}
tokenizer: approximate
{executor}
{scenario.more}
"""


Run = Callable[[Project, int], int]
"""So many runs of a project; the exit status of the last."""


def by_pytest(*options: str) -> Run:
    def run(project: Project, times: int) -> int:
        return [int(project.run(*options).ret) for _ in range(times)][-1]

    return run


def by_command(project: Project, times: int) -> int:
    stages = [*["run"] * times, "score", "analyse"]
    codes = [CliRunner().invoke(main, [stage, "exp.yaml"]).exit_code for stage in stages]
    return max(codes[times - 1 :])


WAYS = {
    "pytest, live": ("live", by_pytest("-n", "0")),
    "kvbench, live": ("live", by_command),
    "pytest, batch": ("batch", by_pytest("-n", "0")),
    "kvbench, batch": ("batch", by_command),
}
WITH_WORKERS = {
    "pytest -n 2, live": ("live", by_pytest("-n", "2")),
    "pytest -n 2, batch": ("batch", by_pytest("-n", "2")),
    "pytest, Parsl": ("parsl", by_pytest("-n", "0")),
    "kvbench, Parsl": ("parsl", by_command),
}


@contextlib.contextmanager
def serving(scenario: Scenario) -> Iterator[Servers]:
    with contextlib.ExitStack() as up:
        count = len(scenario.arms) or 1
        live = [up.enter_context(ForcedServer()) for _ in range(count)]
        batch = [up.enter_context(BatchServer()) for _ in range(count)]
        yield Servers(scenario, live, batch)


def measured(project: Project, scenario: Scenario, way: str) -> tuple[int, dict[str, Any]]:
    """The exit status of the last run, and the summary."""
    mode, run = {**WAYS, **WITH_WORKERS}[way]
    with serving(scenario) as servers:
        text = experiment(servers, mode, scenario)
        (project.path / "exp.yaml").write_text(text, encoding="utf-8")
        if scenario.cut is not None:
            cut_short(run, project, servers, scenario.cut)
        times = scenario.runs * (1 + scenario.rounds if mode == "batch" else 1)
        status = run(project, times)
        if scenario.cut is not None and mode == "batch":
            assert all(set(server.asked.values()) == {1} for server in servers.batch)
    return status, project.summary()


def cut_short(run: Run, project: Project, servers: Servers, by: signal.Signals) -> None:
    """A run in a process of its own that is ended in the middle."""
    child = os.fork()
    if child == 0:
        try:
            run(project, 1)
        finally:
            os._exit(0)
    servers.victim = (child, by)
    os.waitpid(child, 0)
    assert servers.victim is None  # it did not end by itself


def told(summary: dict[str, Any], *, sick: bool, bins: Collection[int] = (0, 1)) -> dict[str, Any]:
    """What must not depend on how one asked.

    Of a sick control's treatments some ways ask a few and others all: none of them counts.
    """
    names = ("verdict", "verdict_holm", "n", "control_mean", "treated_mean", "delta", "lost")
    cells = {
        tuple(
            cell.get(name) for name in ("task", "bin", "variant", "policy", "budget", "measure")
        ): [cell[name] for name in names]
        for cell in summary["cells"]
        if cell["bin"] in bins or bins == (0, 1)
    }
    if bins != (0, 1):
        return {"cells": cells}
    if sick:
        rows = {(c["bin"], c["policy"], c["budget"]): c for c in summary["cells"]}
        lacks = {
            place: [flag for flag in row["flags"] if flag.startswith("partial-pool")]
            for place, row in rows.items()
        }
        wrong = {bin_ for (bin_, policy, _), c in rows.items() if policy == "none" and c["reason"]}
        treated = [c for (_, policy, _), c in rows.items() if policy != "none"]
        words = {c["verdict"] for c in treated if c["bin"] in wrong}
        return {"sick": wrong, "verdicts": words, "lacks": lacks, "missing": summary["missing"]}
    integrity = summary["integrity"]
    counts = {key: value for key, value in integrity.items() if isinstance(value, int | float)}
    drawn = summary.get("sampling")
    bad = [[row[name] for name in names] for row in summary["sensitivity"]]
    return {
        "bad": bad,
        "cells": cells,
        "missing": summary["missing"],
        "counts": counts,
        "drawn": drawn,
    }


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


RARER = {"Ctrl-C", "resumed", "trials", "odd replies", "broken off", "variants"}
RARER |= {"divergence, killed", "divergence in rounds"}
"""What parts of are tried elsewhere too, or as another scenario is."""


CROSSED = [("pytest, live", "kvbench, batch"), ("kvbench, live", "pytest, batch")]
"""Either has both entrances and both modes: what is done in one place for all shows in either."""


def _crossed() -> Iterator[Any]:
    """Each scenario in two ways at every change, one pair after the other; in all where slow."""
    for name, ways in zip(SCENARIOS, itertools.cycle(CROSSED)):
        yield pytest.param(name, ways, marks=pytest.mark.slow if name in RARER else ())
        yield pytest.param(name, tuple(WAYS), marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "ways"), _crossed())
def test_however_one_asks_the_summary_is_the_same(
    name: str, ways: tuple[str, ...], fresh: Callable[[str], Project], ctrl_c: None
) -> None:
    scenario = SCENARIOS[name]
    found = {way: measured(fresh(way), scenario, way) for way in ways}
    first = told(found[ways[0]][1], sick=scenario.is_sick, bins=scenario.bins)
    for way, (status, summary) in found.items():
        assert told(summary, sick=scenario.is_sick, bins=scenario.bins) == first, way
        assert status == found[ways[0]][0], way
        assert status == 1 or not scenario.is_sick
        if scenario.unmeasured:
            longer = [c for c in summary["cells"] if c["bin"] == 1 and c["policy"] != "none"]
            assert {c["verdict"] for c in longer} == {"not-measured"}
            assert all(scenario.unmeasured in c["reason"] for c in longer)
            assert status == 10
    if scenario.is_sick:
        assert first["sick"] == ({0} if name == "silent on short prompts" else {0, 1})
        assert first["verdicts"] == {"not-measured"}
        assert not first["missing"]


QUICK = {
    ("lost pairs", "kvbench, Parsl"),
    ("sequential", "pytest -n 2, live"),
}
"""What is tried at every change; the rest has its time before a release."""


def _with_workers() -> list[Any]:
    return [
        pytest.param(name, way, marks=() if (name, way) in QUICK else pytest.mark.slow)
        for name, way in itertools.product(SCENARIOS, WITH_WORKERS)
    ]


@pytest.mark.parametrize(("name", "way"), _with_workers())
def test_so_it_is_with_workers(
    name: str, way: str, fresh: Callable[[str], Project], ctrl_c: None
) -> None:
    scenario = SCENARIOS[name]
    _, expected = measured(fresh("kvbench, live"), scenario, "kvbench, live")
    status, summary = measured(fresh(way), scenario, way)
    assert told(summary, sick=scenario.is_sick, bins=scenario.bins) == told(
        expected, sick=scenario.is_sick, bins=scenario.bins
    )
    if scenario.is_sick:
        assert status == 1


@pytest.mark.parametrize("mode", [pytest.param("live", marks=pytest.mark.slow), "batch"])
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


@pytest.mark.parametrize(("name", "same"), [("thinking", "slope"), ("broken off", "lost pairs")])
def test_a_fault_of_a_reply_costs_what_it_is(
    name: str, same: str, fresh: Callable[[str], Project]
) -> None:
    """Thoughts cost nothing; what the server broke off is lost like what it refused."""
    way = "pytest, live"
    found = [measured(fresh(s), SCENARIOS[s], way)[1] for s in (name, same)]
    cells = [told(summary, sick=False)["cells"] for summary in found]
    assert cells[0] == cells[1]


TOO_FEW = "can never hold a margin of 0.1, not even without a single loss: per_bin: 21 is the least"


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_plan_that_can_never_hold_says_so_before_it_asks(
    mode: str, fresh: Callable[[str], Project]
) -> None:
    """Once a run, by pytest and by the command line, with the number that could."""
    for per_bin in ("12", "21"):
        scenario = Scenario(per_bin=per_bin)
        with serving(scenario) as servers:
            text = experiment(servers, mode, scenario)
            for entrance in ("pytest", "kvbench"):
                project = fresh(f"{mode} {per_bin} {entrance}")
                (project.path / "exp.yaml").write_text(text, encoding="utf-8")
                if entrance == "pytest":
                    told = project.run("-n", "0").stdout.str()
                else:
                    told = CliRunner().invoke(main, ["run", "exp.yaml"]).stderr
                assert told.count(TOO_FEW) == (per_bin == "12"), told
