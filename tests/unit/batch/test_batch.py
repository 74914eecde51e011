"""Batches handed over and picked up, whatever dies in between: nothing twice, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.batch.desk import LOCK, desk
from pytest_kvbench.batch.files import OPENAI, Limits
from pytest_kvbench.batch.ledger import FOLDER, LEDGER
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import EngineError, ExperimentError, GuardError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.pipeline import prepare as prepare_stage
from pytest_kvbench.pipeline.group import Prepared, Site
from pytest_kvbench.pipeline.observe import observations
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.store.store import Store
from tests.conftest import WORDS
from tests.support.batch_server import BatchServer, answered

EXAMPLES = 6
REQUESTS = 2 * EXAMPLES  # two arms


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KVBENCH_API_KEY", "OPENAI_API_KEY", "KVBENCH_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer(page=1) as server:
        yield server


@pytest.fixture
def prepared(tmp_path: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A group of two arms, each at a server of its own as far as we know."""
    monkeypatch.chdir(tmp_path)
    return prepare(server, "g")


def prepare(server: BatchServer, group: str, **engine: Any) -> Prepared:
    rows = [{"question": f"Say {w}", "context": "text " * 30, "answers": [w]} for w in WORDS]
    Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    url = server.base_url
    inline = {
        "group": group,
        "tasks": ["jsonl:words.jsonl"],
        "bins": {"n": 1, "per_bin": EXAMPLES},
        "kv": {"policies": ["q8_0"], "budgets": [1.0]},
        "engine": {
            "name": "openai",
            "model": "m",
            "endpoints": {"none": url, "q8_0": {"base_url": url, "aa": True}},
            "retries": 0,
            "mode": "batch",
            **engine,
        },
        "tokenizer": "approximate",
    }
    Path(f"{group}.yaml").write_text(json.dumps(inline))
    site = Site(Path("reports"), f"run-{group}", os.getpid(), "kvbench")
    return prepare_stage.prepare(load_experiment(Path(f"{group}.yaml")), site)


def counted(prepared: Prepared) -> tuple[int, int]:
    """Answers and failures."""
    with Store(prepared.database) as store:
        return store.count("answers"), store.count("failures")


class Died(BaseException):
    """What a killed process would not have caught either."""


def once(prepared: Prepared, limits: Limits = OPENAI, step: Callable[[str], None] = str) -> bool:
    """Fetch and submit once, as a run does; whether nothing is open afterwards."""
    with desk(prepared, limits=limits, on_step=step) as open_desk:
        open_desk.fetch()
        open_desk.submit()
        return not open_desk.ledger.open


def finish(prepared: Prepared, step: Callable[[str], None] = str) -> None:
    """Fetch and submit until nothing is open."""
    assert any(once(prepared, step=step) for _ in range(1000))


# -- the way through -----------------------------------------------------------------------------


def test_submitted_once_and_answered_later(prepared: Prepared, server: BatchServer) -> None:
    server.lag = 1
    assert not once(prepared)
    assert len(server.batches) == 2  # an arm each
    assert not once(prepared)
    assert counted(prepared) == (0, 0)
    assert once(prepared)
    assert counted(prepared) == (REQUESTS, 0)
    assert set(server.asked.values()) == {1}
    assert not list((prepared.folder / FOLDER).iterdir())
    with Store(prepared.database) as store:
        keys = [request.key for _, request in prepared.requests()]
        (row, *_) = store.answers(keys).values()
    assert (row.telemetry.latency_s, row.telemetry.completion_tokens) == (None, 1)


def test_order_duplicates_and_strangers_do_no_harm(prepared: Prepared, server: BatchServer) -> None:
    def twist(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*lines, {**lines[0], "custom_id": "nobody"}, *reversed(lines)]

    server.twist = twist
    once(prepared)
    with desk(prepared) as open_desk:
        assert open_desk.fetch().unknown == 2
    assert counted(prepared) == (REQUESTS, 0)
    words = {entry.example.answers[0] for entry in prepared.manifests["jsonl:words.jsonl"].entries}
    with Store(prepared.database) as store:
        by_key = store.answers([request.key for _, request in prepared.requests()])
    for _, request in prepared.requests():
        prompt = prepared.sent(request).prompt.text
        assert by_key[request.key].text == prompt.rsplit("Say ", 1)[1].split()[0]
    assert {answer.text for answer in by_key.values()} == words


def test_a_few_requests_a_file(prepared: Prepared, server: BatchServer) -> None:
    once(prepared, Limits(requests=4))
    sizes = sorted(b["request_counts"]["total"] for b in server.batches.values())
    assert sizes == [2, 2, 4, 4]
    finish(prepared)
    assert counted(prepared) == (REQUESTS, 0)


def test_controls_are_paid_for_once(prepared: Prepared, server: BatchServer) -> None:
    shared = Path("shared")
    for group in ("first", "second"):
        other = prepare(server, group)
        for _ in range(2):
            with desk(other, shared) as open_desk:
                open_desk.fetch()
                open_desk.submit()
        assert counted(other) == (REQUESTS, 0)
    assert sum(server.asked.values()) == 2 * REQUESTS - EXAMPLES
    with Store(other.database) as store:
        keys = [request.key for _, request in other.requests()]
        origins = [outcome.origin for outcome in store.outcomes(keys).values()]
    assert origins.count("shared-control") == EXAMPLES


def test_the_embedded_server_proves_its_budgets(prepared: Prepared, server: BatchServer) -> None:
    inline = prepared.experiment.snapshot()
    engine = {"name": "local", "model": "mock", "base_url": server.base_url, "mode": "batch"}
    kv = {"policies": ["snapkv"], "budgets": [1.0, 0.5]}
    declared = load_experiment(None, inline={**inline, "group": "e", "engine": engine, "kv": kv})
    site = Site(Path("reports"), "run-e", os.getpid(), "kvbench")
    mine = prepare_stage.prepare(declared, site)
    finish(mine)
    assert len(server.batches) == 1  # it has all arms
    with Store(mine.database) as store:
        score(store, [request.key for _, request in mine.requests()], mine.experiment)
        observed = observations(mine, store, mine.requests())
    assert {(one.cell.budget, one.proof) for one in observed} == {(1.0, "proven"), (0.5, "proven")}


# -- what goes wrong -----------------------------------------------------------------------------


def steps_of(prepared: Prepared) -> list[str]:
    steps: list[str] = []
    finish(prepared, steps.append)
    return steps


def test_a_run_that_dies_at_any_step_sends_nothing_twice(
    prepared: Prepared, server: BatchServer
) -> None:
    untouched = Path("untouched")
    shutil.copytree(prepared.folder, untouched)
    steps = steps_of(prepared)
    wanted = {"write", "upload", "create", "poll", "download", "import"}
    assert wanted | {"written", "uploaded", "created", "done", "fetched"} <= set(steps)
    for last in range(len(steps)):
        server.batches.clear()
        server.files.clear()
        shutil.rmtree(prepared.folder)
        shutil.copytree(untouched, prepared.folder)
        done: list[str] = []

        def die(step: str, done: list[str] = done, last: int = last) -> None:
            done.append(step)
            if len(done) > last:
                raise Died

        with pytest.raises(Died):
            finish(prepared, die)
        finish(prepared)
        where = f"died after {done}"
        assert len(server.batches) == server.uploads == 2, where
        assert set(server.asked.values()) == {1}, where
        assert counted(prepared) == (REQUESTS, 0), where
        assert not list((prepared.folder / FOLDER).iterdir()), where


@pytest.mark.parametrize("action", ["upload", "create", "download"])
def test_a_process_killed_while_the_server_works(
    prepared: Prepared, server: BatchServer, action: str
) -> None:
    command = [sys.executable, "-m", "pytest_kvbench.cli", "batch"]
    running: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def kill(done: str) -> None:
        if done == action and running:
            started.wait(60)
            running[0].send_signal(signal.SIGKILL)
            running[0].wait(60)

    verb = "fetch" if action == "download" else "submit"
    if verb == "fetch":
        once(prepared)
    server.after = kill
    running.append(subprocess.Popen([*command, verb, "g.yaml"], stdout=subprocess.DEVNULL))
    started.set()
    assert running[0].wait(60) == -signal.SIGKILL
    running.clear()
    finish(prepared)
    assert set(server.asked.values()) == {1}
    assert counted(prepared) == (REQUESTS, 0)


@pytest.mark.parametrize("action", ["upload", "create", "poll", "download"])
def test_a_lost_reply_is_looked_up(prepared: Prepared, server: BatchServer, action: str) -> None:
    server.lose = [action]
    with pytest.raises(EngineError) as raised:
        finish(prepared)
    assert "504" in raised.value.what
    assert "twice" in raised.value.hint
    finish(prepared)
    assert len(server.batches) == server.uploads == 2
    assert set(server.asked.values()) == {1}
    assert counted(prepared) == (REQUESTS, 0)


def test_what_may_have_been_made_is_not_tried_again_at_once(
    prepared: Prepared, server: BatchServer
) -> None:
    patient = prepare(server, "patient", retries=1)
    server.lose = ["upload", "create"]  # an upload without a reply is looked up, and found
    with pytest.raises(EngineError, match="the next run looks"):
        once(patient)
    assert server.actions == ["upload", "create"]
    finish(patient)
    assert set(server.asked.values()) == {1}


def test_an_expired_batch_is_asked_again_for_the_rest(
    prepared: Prepared, server: BatchServer
) -> None:
    server.end = lambda batch_id: "expired" if batch_id == "batch_0" else "completed"
    once(prepared)
    assert not once(prepared)  # half of the first again
    assert counted(prepared) == (REQUESTS - EXAMPLES // 2, EXAMPLES // 2)
    assert sorted(server.asked.values(), reverse=True)[: EXAMPLES // 2] == [2] * (EXAMPLES // 2)
    assert once(prepared)
    assert counted(prepared) == (REQUESTS, 0)


def test_error_lines_are_failures_that_the_next_submission_asks_again(
    prepared: Prepared, server: BatchServer
) -> None:
    bad: dict[str, int] = {}

    def error(line: dict[str, Any]) -> Any:
        bad[line["custom_id"]] = bad.get(line["custom_id"], 0) + 1
        first = len(bad) <= 3 and bad[line["custom_id"]] == 1
        return {"code": "server_error", "message": "oh"} if first else None

    server.error = error
    once(prepared)
    assert once(prepared)  # who fetched the failure does not ask at once for the same again
    assert counted(prepared) == (REQUESTS - 3, 3)
    assert not once(prepared)
    assert once(prepared)
    assert counted(prepared) == (REQUESTS, 0)
    assert sorted(server.asked.values()) == [1] * (REQUESTS - 3) + [2] * 3


def test_a_batch_that_was_refused_is_a_failure_with_its_reason(
    prepared: Prepared, server: BatchServer
) -> None:
    server.end = lambda batch_id: "failed"
    once(prepared)
    assert once(prepared)
    assert counted(prepared) == (0, REQUESTS)
    with Store(prepared.database) as store:
        (row, *_) = store._db.read("SELECT message FROM failures")
    assert "no such model" in row[0]


@pytest.mark.parametrize("change", ["status", "garbage", "cut"])
def test_an_altered_ledger_is_refused(prepared: Prepared, change: str) -> None:
    once(prepared)
    path = prepared.folder / LEDGER
    text = path.read_text()
    altered = {"status": text.replace('"created"', '"written"'), "garbage": "[]", "cut": text[:90]}
    path.write_text(altered[change])
    with pytest.raises(GuardError, match="checksum") as raised:
        once(prepared)
    assert str(raised.value).count("\n") == 1


def test_an_altered_file_is_refused_and_can_be_given_up(
    prepared: Prepared, server: BatchServer
) -> None:
    once(prepared)
    file = next((prepared.folder / FOLDER).glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"temperature", b"temperatura"))
    with pytest.raises(GuardError, match="sha256") as raised:
        once(prepared)
    assert "kvbench batch cancel" in raised.value.hint
    with desk(prepared) as open_desk:
        open_desk.cancel()
    finish(prepared)
    assert counted(prepared) == (REQUESTS, 0)


def test_two_never_submit_at_once(prepared: Prepared, server: BatchServer) -> None:
    from filelock import FileLock

    with FileLock(prepared.folder / LOCK):
        threads = [threading.Thread(target=once, args=(prepared,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert not server.actions
    for thread in threads:
        thread.join(60)
    assert set(server.asked.values()) == {1}


def test_a_key_is_sent_and_kept_nowhere(
    prepared: Prepared, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-77")
    finish(prepared)
    assert server.keys == {"Bearer sesame-77"}
    files = [path for path in prepared.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"sesame-77" in path.read_bytes()]
    server.lose = ["poll"]
    with desk(prepared) as open_desk, pytest.raises(EngineError) as raised:
        open_desk._of(open_desk.ledger.batches[0]).batch("sesame-77")
    assert "sesame-77" not in str(raised.value)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({"name": "local"}, "name base_url or endpoints"),
        ({"name": "llamacpp"}, "name base_url or endpoints"),
        ({"name": "openai", "launch": {"command": "x {port}"}}, "name base_url or endpoints"),
        ({"name": "openai", "base_url": "http://x/v1", "stream": True}, "stream"),
    ],
)
def test_what_cannot_wait_is_refused(engine: dict[str, Any], told: str) -> None:
    inline = {"group": "g", "tasks": ["niah/single"], "engine": {**engine, "mode": "batch"}}
    with pytest.raises(ExperimentError, match=told) as raised:
        load_experiment(None, inline=inline)
    assert str(raised.value).count("\n") == 1


# -- the command line ----------------------------------------------------------------------------


def kvbench(*args: str) -> Result:
    return CliRunner().invoke(main, list(args), catch_exceptions=False)


def test_the_commands(prepared: Prepared, server: BatchServer) -> None:
    server.lag = 1
    assert "g: 12 requests submitted" in kvbench("batch", "submit", "g.yaml").output
    assert "g: 0 requests submitted" in kvbench("batch", "submit", "g").output
    shown = kvbench("batch", "status", "g").output
    assert "g: 2 batches are open" in shown
    assert "batch_0 created in_progress, 0 of 6 done" in shown
    assert "g: 12 answers and 0 failures stored" in kvbench("batch", "fetch", "g").output
    assert "0 batches are open" in kvbench("batch", "status", "g").output
    assert "12 stored before" in kvbench("run", "g", "--set", "engine.mode=live").output


def test_a_run_without_pytest_picks_up_and_judges_what_has_no_latency(prepared: Prepared) -> None:
    assert "g: 12 requests submitted" in kvbench("run", "g").output
    done = kvbench("all", "g")
    assert "g: 12 answers and 0 failures stored\ng: 0 requests submitted" in done.output
    assert "g: 6 answers scored" in done.output
    assert done.exit_code == 0
    summary = json.loads((prepared.folder / "summary.json").read_text())
    assert [cell["n"] for cell in summary["cells"] if cell["bin"] == 0] == [EXAMPLES, EXAMPLES]
    assert {arm["latency_p50"] for arm in summary["efficiency"]["arms"]} == {None}
    assert (prepared.folder / "report.md").is_file()


def test_cancelled_batches_keep_what_they_brought(prepared: Prepared, server: BatchServer) -> None:
    server.lag = 9
    kvbench("batch", "submit", "g")
    assert "6 answers and 6 failures stored" in kvbench("batch", "cancel", "g").output
    assert "6 requests submitted" in kvbench("batch", "submit", "g").output
    server.lag = 0
    assert "6 answers" in kvbench("batch", "fetch", "g").output


def test_a_server_that_is_gone_can_be_forgotten(prepared: Prepared, server: BatchServer) -> None:
    kvbench("batch", "submit", "g")
    server.batches.clear()
    gone = kvbench("batch", "fetch", "g")
    assert gone.exit_code == 10
    assert "no such batch" in gone.output
    assert "--forget" in gone.output
    assert kvbench("batch", "cancel", "g", "--forget").exit_code == 0
    assert "12 requests submitted" in kvbench("batch", "submit", "g").output


def test_files_for_anybody(prepared: Prepared) -> None:
    shown = kvbench("batch", "export", "g", "--to", "out").output
    assert shown.count("6 requests") == 2
    files = sorted(Path("out").iterdir())
    assert [file.name for file in files] == ["g-none-chat-001.jsonl", "g-q8_0-chat-001.jsonl"]
    for file in files:  # as vllm run-batch does
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        done = [
            {
                "id": "vllm",
                "custom_id": line["custom_id"],
                "response": {"status_code": 200, "body": answered(line["body"])},
                "error": None,
            }
            for line in lines
        ]
        file.write_text(
            "".join(json.dumps(line) + "\n" for line in [{**done[0], "custom_id": "?"}, *done])
        )
    told = kvbench("batch", "import", "g", *map(str, files)).output
    assert "g: 12 answers and 0 failures stored, 2 lines of no request here" in told
    assert kvbench("batch", "export", "g", "--to", "again").stdout == ""
    late = [{"custom_id": line["custom_id"], "error": {"message": "late"}} for line in lines]
    Path("late.jsonl").write_text("".join(json.dumps(line) + "\n" for line in late))
    told = kvbench("batch", "import", "g", "late.jsonl").output  # an answer stays
    assert "0 answers and 0 failures stored" in told


def test_a_file_of_something_else_is_refused(prepared: Prepared) -> None:
    Path("x.jsonl").write_text("{}\n")
    refused = kvbench("batch", "import", "g", "x.jsonl")
    assert refused.exit_code == 4
    assert "x.jsonl:1: is no line" in refused.output
    assert refused.output.count("\n") == 2


# -- odd results ---------------------------------------------------------------------------------


def spoiled(lines: list[bytes]) -> list[bytes]:
    """Of six result lines one is as it was; two more are answers all the same."""
    heads = [line[: line.index(b'"response"')] for line in lines]
    return [
        lines[0].replace(b'"finish_reason"', b'"logprobs": {"t": "\\ud83d"}, "finish_reason"'),
        heads[1] + b'"response": ' + b"[" * 200_000,
        heads[2] + b'"response": "' + b"x" * 3_000_000 + b'"}',
        lines[3].replace(b'"completion_tokens": 1', b'"completion_tokens": ' + b"1" * 5000),
        b"[" * 200_000,
        lines[5],
    ]


def spoil(server: BatchServer) -> None:
    """The results of each batch, once."""
    for file_id, (name, content) in server.files.items():
        if name == "result":
            lines = spoiled(content.splitlines())
            server.files[file_id] = ("spoiled result", b"\n".join(lines))


def test_odd_lines_are_a_failure_each_and_the_next_submission_asks_them_again(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = prepare(server, "small", max_reply_mb=1)
    once(small)
    server.after = lambda action: spoil(server) if action == "poll" else None
    with desk(small) as open_desk:
        open_desk.look()
        server.after = lambda action: None
        taken = open_desk.fetch()
    assert (taken.answered, taken.failed, taken.unknown) == (6, 6, 2)
    assert counted(small) == (6, 6)
    with Store(small.database) as store:
        told = sorted(row[0] for row in store._db.read("SELECT message FROM failures"))
    assert [message.split(":")[0] for message in told] == [
        *(f"batch batch_{n} completed without it" for n in range(2)),
        *["the line of its result cannot be read"] * 4,
    ]
    assert sum("longer than 1 MB: see engine.max_reply_mb" in message for message in told) == 2
    once(small)
    finish(small)
    assert counted(small) == (REQUESTS, 0)
    assert sorted(server.asked.values()) == [1] * 6 + [2] * 6


def test_what_a_server_says_of_its_batches_may_be_odd(
    prepared: Prepared, server: BatchServer
) -> None:
    def confuse(action: str) -> None:
        for batch in server.batches.values():
            batch["request_counts"] = {"completed": "seven", "failed": 10**30}
            batch["errors"] = [3, {"message": "\ud83d\x1b"}]
            batch["metadata"] = {**batch["metadata"], "odd": "\ud83d"}

    server.after = lambda action: confuse(action) if action != "download" else None
    server.twist = lambda lines: [{**lines[0], "custom_id": "\ud83d"}, *lines]
    finish(prepared)
    assert counted(prepared) == (REQUESTS, 0)


def test_half_of_a_file_is_refused_and_an_odd_line_is_not(prepared: Prepared) -> None:
    kvbench("batch", "export", "g", "--to", "out")
    file = sorted(Path("out").iterdir())[0]
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [
        json.dumps({"custom_id": line["custom_id"], "response": {"body": answered(line["body"])}})
        for line in asked
    ]
    file.write_text("\n".join([f"{lines[0][:90]} oops", *lines[1:]]))
    told = kvbench("batch", "import", "g", str(file)).output
    assert "5 answers and 1 failure stored" in told
    file.write_text("\n".join(lines)[:-9])
    torn = kvbench("batch", "import", "g", str(file))
    assert (torn.exit_code, torn.output.count("\n")) == (4, 2)
    assert ":6: is no line" in torn.output


def test_no_line_of_a_batch_brings_the_key_into_a_file(
    prepared: Prepared, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sesame-4711"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    replies = iter(range(REQUESTS))
    server.error = lambda line: {"message": f"Bearer {key} is wrong"} if next(replies) % 2 else None
    said = '"content": "'
    server.twist = lambda lines: json.loads(json.dumps(lines).replace(said, f"{said}{key} "))
    run = CliRunner().invoke
    for words in (["run", "g.yaml"], ["run", "g.yaml"], ["all", "g.yaml"]):
        done = run(main, words)
        assert key not in done.output
    assert "Bearer *** is wrong" in done.output
    files = [path for path in Path("reports").rglob("*") if path.is_file()]
    assert [path for path in files if key.encode() in path.read_bytes()] == []
