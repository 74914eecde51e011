"""One state, one exit status, however one asks; and the last line says why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench import report
from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.plugin.test_ways import Scenario, Servers, experiment, fresh, serving
from tests.support.groups import make_group
from tests.support.mock_server import MockServer

__all__ = ["fresh"]  # a fixture

WAYS = {
    "live": ("pytest", "all", "wait --then report"),  # which begins with a `run`
    "batch": ("pytest", "run", "all", "wait --then report"),
}
Ending = tuple[str, int, Sequence[str]]
"""A way or its command, its exit status, and all lines."""


@dataclass(frozen=True)
class State:
    """A server and an experiment, and what each of `WAYS` ends with: after `run` less is known."""

    scenario: Scenario = field(default_factory=Scenario)
    status: int = 0
    of_run: int | None = None
    why: str = ""
    """What the last line matches."""


def broken(policy: str, budget: float) -> float:
    return float(policy == "none" or budget >= 0.5)


def fails(pattern: str) -> Callable[[str], bool]:
    return lambda prompt: bool(re.search(pattern, prompt))


def right(policy: str, budget: float) -> float:
    return 1.0


GATE = "gate: {mode: gate, alpha: 0.2}"
STATES = {
    "sound": State(),
    "broken, measured": State(Scenario(accuracy=broken)),
    "broken, gated": State(Scenario(GATE, accuracy=broken), 1, 0, r"g: gate: .*0\.20.*: breaks"),
    "undetermined, gated": State(Scenario("gate: {mode: gate}", accuracy=right)),
    "broken over all bins": State(Scenario("gate: {mode: gate}"), 1, 0, "in no bin alone: breaks"),
    "undetermined, strict": State(
        Scenario("gate: {mode: gate, undetermined: fail, margin: 0.01}"),
        1,
        0,
        r"g: gate: .*: undetermined",
    ),
    "sick control": State(
        Scenario(wrong="", accuracy=lambda policy, budget: 0.0),
        1,
        why=r"-control: .* are useless",
    ),
    "lost pairs": State(
        Scenario(loses=fails(r"Say \w+[37]\b")),
        10,
        why=r"g: . cells not measured: .*pairs .*lost to failures",
    ),
    "few lost pairs": State(
        Scenario("gate: {max_lost: 0.5}", loses=fails(r"Say \w+[37]\b")),
    ),
    "nothing answered": State(
        Scenario(loses=lambda prompt: True), 10, why="not measured|none of .* was answered"
    ),
}


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else here."""
    monkeypatch.setattr(
        report, "write_report", lambda folder, summary, *_, **__: folder / "report.md"
    )


@pytest.fixture
def told(
    fresh: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> Callable[[State, str, str], Iterator[Ending]]:
    """What a state ends with, asked in a mode and a way."""

    def ask(state: State, mode: str, way: str) -> Iterator[Ending]:
        project = fresh(way)
        with serving(state.scenario) as servers:
            declare(project, servers, mode, state.scenario)
            if way == "pytest":
                for _ in range(1 + (mode == "batch")):
                    result = project.run("-n", "0")
                yield way, int(result.ret), result.outlines
                return
            asked = [[way]] * (1 + (mode == "batch"))
            if way == "wait --then report":
                asked = [["run"], ["wait", "--then", "report", "--every", "0.01"]]
            for number, (name, *more) in enumerate(asked, 1):
                done = CliRunner().invoke(main, [name, "exp.yaml", *more])
                if mode == "live" or number == len(asked):  # of a batch only what fetches it
                    yield name, done.exit_code, (done.stdout + done.stderr).splitlines()

    return ask


def declare(project: Project, servers: Servers, mode: str, scenario: Scenario) -> None:
    text = experiment(servers, mode, scenario)
    (project.path / "exp.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "live") for name in STATES),
        *((name, "batch") for name in ("sound", "broken over all bins", "sick control")),
        *((name, "batch") for name in ("lost pairs", "nothing answered")),
    ],
)
def test_every_way_ends_with_the_same_status_and_says_why(
    name: str, mode: str, told: Callable[[State, str, str], Iterator[Ending]]
) -> None:
    state = STATES[name]
    endings = [ending for way in WAYS[mode] for ending in told(state, mode, way)]
    assert {way for way, _, _ in endings} == {"pytest", "run", "all", "wait"}
    for way, status, lines in endings:
        wanted = state.of_run if way == "run" and state.of_run is not None else state.status
        text = "\n".join(lines)
        assert status == wanted, f"{way}\n{text}"
        assert "Traceback" not in text
        last = "\n".join(lines[-2:])
        if wanted:
            assert last.count("kvbench: "), f"{way}\n{text}"
            assert re.search(state.why, last), f"{way}\n{text}"
        else:
            assert "exit status" not in last


@pytest.mark.parametrize(
    "name", [pytest.param("broken over all bins", marks=pytest.mark.slow), "sick control"]
)
def test_workers_end_as_one_process_does(name: str, fresh: Callable[[str], Project]) -> None:
    state, project = STATES[name], fresh("workers")
    with serving(state.scenario) as servers:
        declare(project, servers, "live", state.scenario)
        result = project.run("-n", "2")
    assert result.ret == state.status
    assert re.search(state.why, result.outlines[-1])


@pytest.fixture
def batched(fresh: Callable[[str], Project]) -> Iterator[tuple[Project, Servers]]:
    with serving(Scenario()) as servers:
        project = fresh("batched")
        declare(project, servers, "batch", Scenario())
        yield project, servers


def kvbench(*args: str) -> tuple[int, str]:
    """Status and last line."""
    done = CliRunner().invoke(main, args)
    return done.exit_code, done.output.splitlines()[-1]


@pytest.mark.parametrize("status", ["paused", "", None, "IN PROGRESS?"])
def test_a_batch_of_no_known_status_is_not_waited_for_with_0(
    status: object, batched: tuple[Project, Servers]
) -> None:
    project, servers = batched

    def say(action: str) -> None:
        for batch in servers.batch[0].batches.values():
            batch["status"] = status

    servers.batch[0].after = say
    project.run("-n", "0")
    result = project.run("-n", "0")
    assert (result.ret, result.parseoutcomes()["skipped"]) == (10, 6)
    why = r"exit status 10: g: batch batch_0: its server says .* no status of a batch that goes on"
    assert re.search(why, result.outlines[-1])
    for command in (["run", "exp.yaml"], ["all", "exp.yaml"], ["batch", "status", "g"]):
        ended, last = kvbench(*command)
        assert (ended, bool(re.search(why, last))) == (10, True), command
    assert kvbench("wait", "g", "--every", "0.01")[0] == 10


def test_a_status_in_capitals_is_the_same(batched: tuple[Project, Servers]) -> None:
    _, servers = batched

    def shout(action: str) -> None:
        for batch in servers.batch[0].batches.values() if action == "poll" else ():
            batch["status"] = str(batch["status"]).upper()

    servers.batch[0].after = shout
    assert kvbench("run", "exp.yaml")[0] == 0
    assert kvbench("batch", "fetch", "g") == (0, "g: 72 answers and 0 failures stored")


def test_failures_that_a_batch_brings_are_the_status_of_who_fetches_them(
    batched: tuple[Project, Servers],
) -> None:
    _, servers = batched
    servers.batch[0].error = lambda line: {"code": "no", "message": "no such thing"}
    assert kvbench("run", "exp.yaml")[0] == 0
    status, last = kvbench("batch", "fetch", "g")
    assert status == 10
    assert "12 of 12 pairs were lost to failures: no such thing" in last


@pytest.mark.parametrize("option", ["--kvbench-compare", "--kvbench-save"])
def test_what_waits_for_its_batch_is_neither_compared_nor_saved(
    option: str, batched: tuple[Project, Servers]
) -> None:
    project, _ = batched
    (project.path / "reports" / ".baselines" / "main").mkdir(parents=True)
    result = project.run("-n", "0", option, "main")
    result.assert_outcomes(skipped=6)
    assert result.ret == 10
    assert re.search(r"exit status 10: g: .*waiting for batch batch_0", result.outlines[-1])


def test_a_bin_without_examples_passes_no_gate(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    file = project.path / "exp.yaml"
    text = file.read_text(encoding="utf-8").replace("edges: [150]", "edges: [100000]")
    file.write_text(text + "gate: {mode: gate}\n", encoding="utf-8")
    why = "the data of jsonl:words.jsonl have no example in bin 1"
    gated = project.run("-n", "0", "-k", "bin1")
    assert (gated.ret, why in gated.stdout.str()) == (10, True)
    gated = project.run("-n", "0")
    assert (gated.ret, why in gated.outlines[-1]) == (10, True)
    done = CliRunner().invoke(main, ["all", "exp.yaml"])
    assert (done.exit_code, why in done.stderr.splitlines()[-1]) == (10, True)
    measured = ("--kvbench-set", "gate.mode=measure")
    assert project.run("-n", "0", *measured).ret == 0


def test_a_group_without_an_answer_ends_with_what_its_items_met(
    project: Project, mock: MockServer
) -> None:
    """That nothing was answered is no reason."""
    file = project.path / "exp.yaml"
    file.write_text(file.read_text().replace("[150]", "[5000]"))
    result = project.run("-n", "0", "-k", "bin1", "--kvbench-set=gate.mode=gate")
    assert result.ret == 10
    assert "no example in bin 1" in result.outlines[-1]
    mock.kill()
    result = project.run("-n", "0", "--kvbench-fresh")
    assert result.ret == 10
    assert "no server answers at" in result.outlines[-1]


def test_what_holds_after_the_correction_and_fails_as_an_item_is_said_to_be_an_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {"mode": "gate", "undetermined": "fail", "correction": "none"}
    make_group(tmp_path / "reports", draw=lambda *_: 1.0, bins=1, per_bin=40, gate=gate)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["analyse", "g"])
    assert done.exit_code == 1, done.output
    assert "undetermined as items, each at gate.alpha" in done.stderr.splitlines()[-1]
