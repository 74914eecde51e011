"""`kvbench wait`: beside real processes that answer, end and die, and a server with batches."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from starlette.responses import Response

from pytest_kvbench import errors
from pytest_kvbench.batch import targets as targets_of
from pytest_kvbench.batch import wait
from pytest_kvbench.batch.desk import LOCK, desk
from pytest_kvbench.batch.ledger import FOLDER, Ledger
from pytest_kvbench.cli import waiting
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import EXIT_INTERRUPTED
from pytest_kvbench.experiment.load import Override, load_experiment
from pytest_kvbench.pipeline import conclude
from pytest_kvbench.pipeline import prepare as prepare_stage
from pytest_kvbench.pipeline.ask import make_pool
from pytest_kvbench.pipeline.drawn import drawn_so_far
from pytest_kvbench.pipeline.group import Prepared, Site
from pytest_kvbench.records import Answer, Request, Telemetry
from pytest_kvbench.store.outstanding import Count
from pytest_kvbench.store.presence import Presence, at_work
from pytest_kvbench.store.store import DATABASE, Store
from tests.conftest import WORDS
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer
from tests.support.patience import wait_for

FOLDER_G = Path("reports/g")
EXAMPLES = 8
REQUESTS = 3 * EXAMPLES
AT_ONCE = ("--every", "0.02")
INTERRUPTED = f"kvbench: {errors.INTERRUPTED}".encode()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("KVBENCH_DIR", "KVBENCH_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    rows = [
        {"question": f"Say {word}", "context": f"text{n} " * 30, "answers": [word]}
        for n, word in enumerate(WORDS)
    ]
    Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def declare(url: str, **keys: Any) -> None:
    """`exp.yaml`, of the group g."""
    engine = keys.pop("engine", {"model": "mock", "base_url": url, "retries": 0})
    content = {
        "group": "g",
        "tasks": ["jsonl:words.jsonl"],
        "bins": {"n": 1, "per_bin": EXAMPLES},
        "kv": {"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.2]},
        "tokenizer": "approximate",
        "engine": engine,
        **keys,
    }
    Path("exp.yaml").write_text(json.dumps(content))


@pytest.fixture
def live(mock: MockServer) -> MockServer:
    declare(mock.base_url)
    return mock


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as server:
        url = server.base_url
        declare(
            url,
            kv={"policies": ["q8_0"], "budgets": [1.0]},
            engine={
                "name": "openai",
                "model": "m",
                "endpoints": {"none": url, "q8_0": {"base_url": url, "aa": True}},
                "mode": "batch",
                "retries": 0,
            },
        )
        yield server


def kvbench(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), catch_exceptions=False)


def prepare(*sets: str) -> Prepared:
    """What a run does before it asks."""
    site = Site(Path("reports"), f"run{time.monotonic_ns()}", os.getpid(), "pytest x")
    overrides = [Override.parse(text) for text in sets]
    return prepare_stage.prepare(load_experiment(Path("exp.yaml"), overrides=overrides), site)


def stored(table: str = "answers") -> int:
    with Store(FOLDER_G / DATABASE) as store:
        return store.count(table)


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, over at the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


@contextlib.contextmanager
def another_run() -> Iterator[subprocess.Popen[bytes]]:
    """A `kvbench run` that has stored something and lacks something."""
    with running(sys.executable, "-m", "pytest_kvbench.cli", "run", "exp.yaml") as run:
        wait_for(lambda: (FOLDER_G / DATABASE).exists() and stored(), every_s=0.01)
        assert run.poll() is None
        assert stored() < REQUESTS
        yield run


def sleeping(seconds: float) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return running("sleep", str(seconds))


def refused(result: Result, *told: str, code: int = 10) -> None:
    """It ended so, saying this in two lines at the end."""
    assert result.exit_code == code, result.output
    last = "\n".join(result.stderr.splitlines()[-2:])
    assert last.startswith("kvbench: "), result.stderr
    for text in told:
        assert text in last


# -- groups --------------------------------------------------------------------------------------


def test_another_process_answers_and_this_one_reports(live: MockServer) -> None:
    live.latency_s = 0.15
    with another_run() as run:
        result = kvbench("wait", "g", "--every", "0.05", "--then", "report")
        assert result.exit_code == 0, result.output
        assert run.wait(60) == 0  # nobody stood in its way
    assert f"g: complete, {REQUESTS} answers\ng: {REQUESTS} answers scored" in result.stdout
    assert (FOLDER_G / "report.md").is_file()
    assert not json.loads((FOLDER_G / "summary.json").read_text())["partial"]
    assert max(live.asked.values()) == 1


def test_a_run_that_dies_is_noticed(live: MockServer) -> None:
    live.latency_s = 0.15
    with another_run() as run:
        threading.Timer(0.1, run.kill).start()
        result = kvbench("wait", "g", "--every", "0.05", "--then", "report")
    left = REQUESTS - stored()
    assert left
    told = f"g: {left} of {REQUESTS} requests have no answer, and nobody is at work on it"
    refused(result, told, "kvbench run exp.yaml", "kvbench run g")
    assert not (FOLDER_G / "report.md").exists()


def test_a_group_that_nobody_works_on_is_given_some_looks(live: MockServer) -> None:
    prepare()
    began = time.monotonic()
    result = kvbench("wait", "g", "--every", "0.1")
    refused(result, f"{REQUESTS} of {REQUESTS} requests have no answer", "pytest x")
    assert time.monotonic() - began > (wait.LOOKS - 1) * 0.1
    assert result.stderr.count("\n") == 4  # two of them progress


def test_time_over(live: MockServer) -> None:
    folder = prepare().folder
    with contextlib.closing(Presence(folder)):
        result = kvbench("wait", "g", *AT_ONCE, "--timeout", "0.5")
    refused(result, f"{REQUESTS} of {REQUESTS} requests have no answer\n", "wait again, or longer")


def test_whoever_is_at_work_is_seen_until_the_last_has_gone(tmp_path: Path) -> None:
    assert not at_work(tmp_path)
    first, second = Presence(tmp_path), Presence(tmp_path)
    first.close()
    assert at_work(tmp_path)
    second.close()
    assert not at_work(tmp_path)
    with FileLock(tmp_path / ".prepare.lock"):
        assert at_work(tmp_path)
    assert not at_work(tmp_path)


def test_a_pool_is_at_work_until_it_is_closed(live: MockServer) -> None:
    prepared = prepare()
    pool = make_pool(prepared, Site(Path("reports"), "r", os.getpid(), "pytest x"))
    assert at_work(FOLDER_G)
    pool.close()
    assert not at_work(FOLDER_G)


def test_a_command_is_at_work_until_its_last_stage(
    live: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, report = [], conclude.report

    def reported(prepared: Prepared, *rest: Any) -> Path:
        seen.append(at_work(prepared.folder))
        return report(prepared, *rest)

    monkeypatch.setattr("pytest_kvbench.pipeline.conclude.report", reported)
    kvbench("all", "exp.yaml")
    assert (seen, at_work(FOLDER_G)) == ([True], False)


def test_failures_are_an_end_unless_a_later_run_asks_again(live: MockServer) -> None:
    live.trouble = lambda number, body: Response(status_code=400) if number == 3 else None
    kvbench("run", "exp.yaml")
    done = kvbench("wait", "g")
    assert done.exit_code == 0
    assert f"g: complete, {REQUESTS - 3} answers, 3 failed\n" in done.stdout
    folder = prepare().folder
    assert kvbench("wait", "g").exit_code == 0  # begun, and nobody asks
    with contextlib.closing(Presence(folder)):
        again = kvbench("wait", "g", *AT_ONCE, "--timeout", "0.2")
    refused(again, f"3 of {REQUESTS} requests have no answer\n")


def test_what_was_complete_is_not_where_a_run_plans_more(live: MockServer) -> None:
    kvbench("run", "exp.yaml")
    pace = wait.Pace(0.02)
    seen: list[bool] = []
    with sleeping(60) as other:

        def plan_more(looks: Any) -> None:
            seen.append(looks["g"].done)
            if len(seen) == 2:
                prepare("kv.budgets=[1.0,0.5,0.2,0.1]")
                other.kill()
                other.wait(60)

        targets = wait.find(["g", f"pid:{other.pid}"], Path("reports"), pace)
        looks = wait.wait(targets, pace, plan_more)
    assert seen[:3] == [True, True, False]
    count = looks["g"].count
    assert count is not None
    assert (count.planned, count.missing) == (4 * EXAMPLES, EXAMPLES)


def test_another_plan_is_not_answered_by_what_was_stored_for_this(live: MockServer) -> None:
    kvbench("run", "exp.yaml")
    prepare("kv.budgets=[1.0,0.7]")
    refused(kvbench("wait", "g", *AT_ONCE), f"{EXAMPLES} of {2 * EXAMPLES} requests")


def test_every_stage_of_a_sweep(live: MockServer) -> None:
    live.latency_s = 0.02
    live.accuracy = lambda policy, budget: float(budget == 1)
    declare(
        live.base_url,
        stages={"a": {"bins": {"per_bin": 40}}, "b": {"kv": {"budgets": [1.0, 0.8]}}},
    )
    unbegun = kvbench("wait", "exp.yaml", *AT_ONCE)
    refused(unbegun, "g.b: has not begun, and nobody is at work on it", "kvbench run FILE.yaml")
    assert "kvbench: g.a: has not begun" in unbegun.stderr
    kvbench("run", "exp.yaml")
    done = kvbench("wait", "exp.yaml", *AT_ONCE, "--then", "analyse")
    assert done.exit_code == 0, done.output
    assert "g.a: complete, 120 answers\ng.b: complete, " in done.stdout
    assert Path("reports/g.b/summary.json").is_file()


def test_who_is_at_work_on_a_stage_comes_to_the_next(live: MockServer) -> None:
    kvbench("run", "exp.yaml")
    pace = wait.Pace(0.01, timeout_s=0.3)
    other = Path("reports/other")
    with contextlib.closing(Presence(FOLDER_G)):
        targets = [targets_of.Group(targets_of.Batches(folder, 1)) for folder in (FOLDER_G, other)]
        began = time.monotonic()
        looks = wait.wait(targets, pace, lambda _: None)
    assert time.monotonic() - began >= 0.3
    assert [looks[name].done for name in ("g", "other")] == [True, False]


def test_a_sequential_group_is_complete_when_nothing_more_is_wanted(live: MockServer) -> None:
    live.accuracy = lambda policy, budget: 1.0 if budget > 0.2 else 0.0
    declare(
        live.base_url,
        bins={"n": 1, "per_bin": {"min": 8, "max": 60}},
        sampling={"strategy": "sequential"},
    )

    prepared = prepare()
    with Store(prepared.database) as store:
        first = [request for _, request in drawn_so_far(prepared, store, prepared.requests())]
        assert len(first) == 24
        store.save_requests(first)
        answers = [Answer(r.key, word_of(prepared, r), "stop", Telemetry(0.1)) for r in first]
        store.save_answers(answers)
    refused(kvbench("wait", "g", *AT_ONCE), "requests have no answer, and nobody")  # a second round
    assert kvbench("run", "exp.yaml").exit_code == 0
    done = kvbench("wait", "g")
    assert done.exit_code == 0
    assert 24 < stored() < 180
    assert f"complete, {stored()} answers" in done.stdout


def word_of(prepared: Prepared, request: Request) -> str:
    """The right answer."""
    entries = prepared.manifests[request.task].entries
    return next(e.example.answers[0] for e in entries if e.example.example_id == request.example_id)


# -- batches -------------------------------------------------------------------------------------

IN_BATCHES = 2 * EXAMPLES


def submitted() -> None:
    assert kvbench("batch", "submit", "exp.yaml").exit_code == 0


def test_batches_are_fetched_when_they_end(server: BatchServer) -> None:
    server.lag = 3
    submitted()
    result = kvbench("wait", "g", *AT_ONCE, "--then", "report,aggregate")
    assert result.exit_code == 0, result.output
    assert f"g: complete, {IN_BATCHES} answers\n" in result.stdout
    assert "waiting for batches batch_0, batch_1 (0 of 16 done)" in result.stderr
    assert server.actions.count("poll") == 2 * (3 + 1)
    assert (FOLDER_G / "report.md").is_file()
    assert list(Path("reports/_aggregate/cells").glob("*.parquet"))


def test_a_provider_is_asked_less_often_than_a_group_is_looked_at(server: BatchServer) -> None:
    server.lag = 100
    submitted()
    targets = wait.find(["g", "batch_0"], Path("reports"), wait.Pace())
    looks = wait.wait(targets, wait.Pace(0.01, 30, timeout_s=0.3), lambda _: None)
    assert server.actions.count("poll") == 2  # each batch once, whoever waits
    assert [look.active for look in looks.values()] == [True, True]


@pytest.mark.parametrize("ours", [False, True])
def test_a_batch_by_either_of_its_names(server: BatchServer, ours: bool) -> None:
    server.lag = 1
    submitted()
    batch, _ = Ledger(FOLDER_G).batches
    result = kvbench("wait", batch.id if ours else batch.batch_id, *AT_ONCE)
    assert result.exit_code == 0, result.output
    assert f"batch_0: completed, {EXAMPLES} of {EXAMPLES} done\n" in result.stdout
    again = kvbench("wait", "batch_0", "--then", "score")
    assert "answers scored" in again.stdout
    unknown = kvbench("wait", "batch_7")
    refused(unknown, "'batch_7' is no group and no batch", "groups there: g", "pid:1234", code=4)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("expired", "expired without 4 of 8 answers"),
        ("failed", "failed without 8 of 8 answers: no such model"),
    ],
)
def test_a_batch_that_ended_badly(server: BatchServer, status: str, told: str) -> None:
    server.end = lambda batch_id: status if batch_id == "batch_0" else "completed"
    submitted()
    refused(
        kvbench("wait", "batch_0", *AT_ONCE, "--then", "report"),
        f"batch_0: {told}",
        "kvbench batch submit g",
    )
    assert not (FOLDER_G / "report.md").exists()
    done = kvbench("wait", "g")  # what a batch leaves out is a failure
    assert done.exit_code == 0
    assert f"{IN_BATCHES - stored('failures')} answers, {stored('failures')} failed" in done.stdout


def test_what_was_cancelled_is_in_nobodys_hands(server: BatchServer) -> None:
    server.lag = 100
    submitted()
    threading.Timer(0.3, kvbench, ["batch", "cancel", "g", "--forget"]).start()
    refused(kvbench("wait", "g", "--every", "0.05"), "16 of 16 requests have no answer, and nobody")


def test_what_no_provider_has_is_not_waited_for(server: BatchServer) -> None:
    def die(step: str) -> None:
        if step == "upload":
            raise KeyboardInterrupt

    with desk(prepare(), on_step=die) as open_desk, pytest.raises(KeyboardInterrupt):
        open_desk.submit()
    (name, *_) = [batch.name for batch in Ledger(FOLDER_G).open]
    refused(kvbench("wait", "g", *AT_ONCE), "nobody", "2 batches", "kvbench batch submit g")
    refused(kvbench("wait", name, *AT_ONCE), "never handed over", "kvbench batch submit g")


def test_a_provider_may_have_bad_minutes(server: BatchServer) -> None:
    submitted()
    server.lose = ["poll", "download"]
    result = kvbench("wait", "g", *AT_ONCE)
    assert result.exit_code == 0, result.output


def test_a_provider_that_knows_nothing_is_given_up(server: BatchServer) -> None:
    submitted()
    server.batches.clear()
    refused(kvbench("wait", "g", "--every", "0.01"), "no such batch", "--forget")
    refused(kvbench("wait", "batch_0", "--every", "0.01"), "no such batch", "--forget")


def test_an_altered_file_is_no_reason_to_wait(server: BatchServer) -> None:
    server.lag = 100
    submitted()
    for file in (FOLDER_G / FOLDER).glob("*.jsonl"):
        file.write_bytes(b"{}\n")
    server.lag = 0
    targets = wait.find(["g"], Path("reports"), wait.Pace())
    look = wait.wait(targets, wait.Pace(0.01, timeout_s=5), lambda _: None)["g"]
    assert not look.active  # at once, and not when a provider would be given up
    assert "sha256" in look.problem
    assert "kvbench batch cancel" in look.hint


def test_who_is_at_the_desk_is_not_in_the_way(server: BatchServer) -> None:
    submitted()
    with FileLock(FOLDER_G / LOCK):
        refused(kvbench("wait", "g", *AT_ONCE, "--timeout", "0.3"), "have no answer\n")
        assert "poll" not in server.actions
    assert kvbench("wait", "g", *AT_ONCE).exit_code == 0


# -- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["pid:", ""])
def test_a_process_until_it_ends(prefix: str) -> None:
    with sleeping(0.5) as other:
        began = time.monotonic()
        result = kvbench("wait", f"{prefix}{other.pid}", *AT_ONCE)
        assert time.monotonic() - began > 0.3
    assert result.exit_code == 0
    assert f"pid {other.pid}: ended\n" in result.stdout


def test_a_process_that_is_gone() -> None:
    with sleeping(0) as other:
        other.wait(60)
    result = kvbench("wait", f"pid:{other.pid}", "pid:99999999999999999999")
    assert result.exit_code == 0
    assert result.stdout.count("no such process: it had ended before") == 2


def test_another_process_of_that_number_is_not_waited_for() -> None:
    target = targets_of.Process(os.getpid())
    assert target.look().active
    assert target._process is not None
    target._process._ident = (os.getpid(), 1.0)  # type: ignore[attr-defined]  # as if begun in 1970
    assert target.look().done


def test_a_group_may_be_called_like_a_number(live: MockServer) -> None:
    declare(live.base_url, group="1")
    kvbench("run", "exp.yaml")
    assert "1: complete" in kvbench("wait", "1").stdout
    with_prefix = kvbench("wait", "pid:1", *AT_ONCE, "--timeout", "0.1")
    refused(with_prefix, "pid 1: still runs")


# -- what follows, and how it looks ----------------------------------------------------------------


def test_stages_are_refused_before_the_wait() -> None:
    with sleeping(60) as other:
        typo = kvbench("wait", f"pid:{other.pid}", "--then", "score,repot")
        assert typo.exit_code == 2
        assert "'repot' is not one of 'score', 'analyse', 'report', 'aggregate'" in typo.stderr
        no_group = kvbench("wait", f"pid:{other.pid}", "--then", "aggregate,report")
        refused(no_group, "--then report: no group is waited for", "--then aggregate", code=4)
    gathered = kvbench("wait", f"pid:{other.pid}", "--then", "aggregate")
    assert gathered.exit_code == 0
    assert "0 groups read" in gathered.stdout


def test_stages_in_the_order_given_each_once_and_with_what_they_need(live: MockServer) -> None:
    kvbench("run", "exp.yaml")
    result = kvbench("wait", "g", "--then", "aggregate", "--then", "report,score")
    lines = [line.split(" ")[0] for line in result.stdout.splitlines()]
    said = [line for line in lines if line.startswith(("g:", "reports/"))]
    expected = ["g:", "g:", "reports/g/summary.json", "reports/_aggregate:", "reports/g/report.md"]
    assert said == expected


def test_what_is_complete_is_reported_beside_what_is_not(live: MockServer) -> None:
    kvbench("run", "exp.yaml")
    declare(live.base_url, group="lacking")
    prepare()
    result = kvbench("wait", "lacking", "g", *AT_ONCE, "--then", "report")
    refused(result, "lacking: ")
    assert (FOLDER_G / "report.md").is_file()
    assert not Path("reports/lacking/report.md").exists()


def on_a_terminal(*args: str) -> tuple[subprocess.Popen[bytes], Callable[[bytes], bytes]]:
    """A `kvbench wait` whose errors go to a terminal, and what reads there until a text comes."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pytest_kvbench.cli", "wait", *args]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""

    def read_until(text: bytes) -> bytes:
        nonlocal shown
        while text not in shown:
            assert select.select([ours], [], [], 60)[0], shown
            try:
                shown += os.read(ours, 1000)
            except OSError:  # the other end is closed
                raise AssertionError(shown) from None
        return shown

    return process, read_until


@pytest.mark.usefixtures("ctrl_c")
def test_one_line_on_a_terminal_and_a_clean_end_on_control_c(live: MockServer) -> None:
    folder = prepare().folder
    with contextlib.closing(Presence(folder)):
        process, read_until = on_a_terminal("g", *AT_ONCE)
        read_until(b"g: 0/24 answers")
        process.send_signal(signal.SIGINT)
        shown = read_until(INTERRUPTED)
        assert process.wait(60) == EXIT_INTERRUPTED
    assert shown.count(b"\r") - shown.count(b"\r\n") >= 2  # redrawn
    assert shown.startswith(b"waiting for g\r\n")
    assert b"Traceback" not in shown
    assert b"\r\x1b[2K" + INTERRUPTED in shown.replace(b"\r\n", b"")  # the line is gone


def test_elsewhere_a_line_where_something_changed(live: MockServer) -> None:
    folder = prepare().folder
    with contextlib.closing(Presence(folder)):
        result = kvbench("wait", "g", *AT_ONCE, "--timeout", "0.3")
    assert result.stderr.splitlines()[:3] == [
        "waiting for g",
        "g: 0/24 answers",
        "kvbench: g: 24 of 24 requests have no answer",
    ]


class Terminal(io.StringIO):
    """Where a line is redrawn."""

    def isatty(self) -> bool:
        return True


def test_answers_that_were_there_before_tell_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with waiting._progress(["g"]) as show:
        show({"g": targets_of.Look(progress="has not begun")})
        show({"g": targets_of.Look(count=Count(30, 20, 0, 0))})
        assert terminal.getvalue().endswith("\r\x1b[2Kg: 20/30 answers")
        show({"g": targets_of.Look(count=Count(30, 21, 0, 0))})
        assert re.search(r"21/30 answers, \S+/s, \S+ s left$", terminal.getvalue())
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_elsewhere_at_most_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting._progress(["g"]) as show:
        for answered in range(3):
            show({"g": targets_of.Look(count=Count(3, answered, 0, 0))})
    assert capsys.readouterr().err == "waiting for g\ng: 0/3 answers\n"
