"""What groups of every kind come to, to the byte: `summary.json`, `report.md` and the exports.

A change of code that is none of behaviour leaves the files of `tests/golden` as they are. After
one that is, `KVBENCH_PIN=1 pytest tests/plugin/test_pinned.py` writes them again, and the diff of
the commit says what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse, Response

from pytest_kvbench.cli.stages import main
from pytest_kvbench.report import summary
from pytest_kvbench.rows import Provenance
from pytest_kvbench.store.store import RunRow, Store
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer

GOLDEN = Path(__file__).parent.parent / "golden"
LONGEST = 80_000
EXPERIMENT = """\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 2, per_bin: 12, edges: [150]}}
kv: {{policies: [snapkv, knorm], budgets: [1.0, 0.5, 0.2]}}
engine: {{name: local, model: mock, base_url: "{server}", retries: 0, {engine}}}
tokenizer: approximate
{more}
"""
MORE = {
    "failures": "",
    "variants": "variants: {plain: {}, polite: {before: 'Please. ', temperature: 0.7}}\n"
    "sampling: {temperature: 0.5, trials: 2}\naa: true",
    "votes": "sampling: {temperature: 0.7, self_consistency: 3}",
    "sequential": "sampling: {strategy: sequential}\nbins: {n: 2, edges: [150], "
    "per_bin: {min: 12, max: 40}}",
    "stages": "stages: {breadth: {bins: {per_bin: 8}}, depth: {bins: {per_bin: 12}}}",
    "batch": "",
}


def kvbench(*args: object) -> str:
    done = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code in (0, 1, 10), done.output
    return done.stdout


def accuracy(policy: str, budget: float) -> float:
    """What the server gets right: one policy falls off a cliff, the other down a slope."""
    return (1.0 if budget > 0.4 else 0.1) if policy == "snapkv" else 0.5 + budget / 2


def refuse_some(number: int, body: dict[str, Any]) -> Response | None:
    """Some prompts of the longer bin fail with all their arms."""
    text = body["messages"][-1]["content"][-1]["text"]
    if re.search(r"Say word\d*[135]\b", text):
        return JSONResponse({"error": {"message": "no"}}, status_code=400)
    return None


def measure(folder: Path, kind: str) -> None:
    """A project with one experiment of a kind, run to its end."""
    rows = [
        {"question": f"Say word{n}", "context": f"text{n} " * (20 + 200 * (n % 2)),
         "answers": [f"word{n}"]}
        for n in range(100)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "words.jsonl").write_text(text, encoding="utf-8")
    batch = kind == "batch"
    servers: Any = BatchServer() if batch else MockServer(accuracy=accuracy)
    if kind == "failures":
        servers.trouble = refuse_some
    with servers as server:
        text = EXPERIMENT.format(
            server=server.base_url, engine="mode: batch" if batch else "", more=MORE[kind]
        )
        if kind == "sequential":
            text = text.replace("bins: {n: 2, per_bin: 12, edges: [150]}\n", "")
        (folder / "exp.yaml").write_text(text, encoding="utf-8")
        for _ in range(1 + batch):  # hand over; pick up
            kvbench("run", "exp.yaml")


def results(folder: Path) -> Iterator[tuple[str, str]]:
    """The name and the text of everything that is pinned."""
    for group in sorted(p.parent.name for p in folder.glob("reports/*/kvbench.sqlite")):
        for stage in ("score", "analyse", "report"):
            kvbench(stage, group)
        for name in ("summary.json", "report.md"):
            text = (folder / "reports" / group / name).read_text(encoding="utf-8")
            yield f"{group}.{name}", text
    kvbench("export", "--csv", "csv")
    for table in ("answers", "runs", "cells"):
        yield f"{table}.csv", (folder / "csv" / f"{table}.csv").read_text(encoding="utf-8")
    for command in ("best", "effects"):
        kvbench(command, "--csv", f"{command}.csv")
        yield f"{command}.csv", (folder / f"{command}.csv").read_text(encoding="utf-8")
    kvbench("insights")
    yield "INSIGHTS.md", (folder / "reports" / "INSIGHTS.md").read_text(encoding="utf-8")


def timeless(text: str, folder: Path) -> str:
    """Without what every run has of its own: places, ports, times, the hashes made of them."""
    for pattern, name in (
        (re.escape(str(folder.resolve())), "HERE"),
        (r"127\.0\.0\.1:\d+", "SERVER"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(\+00:00|Z| UTC)?", "TIME"),
        (r"\b\d{4}-\d\d-\d\d\b", "DATE"),
        (r"\b[0-9a-f]{12,64}\b", "HASH"),
        (r"run took \d+ (s|min)", "run took A WHILE"),
    ):
        text = re.sub(pattern, name, text)
    return text


def shortened(text: str) -> str:
    """The beginning of a long table, and a digest of all of it."""
    if len(text) < LONGEST:
        return text
    whole = hashlib.sha256(text.encode()).hexdigest()
    return text[: text.index("\n", LONGEST // 10)] + f"\n... sha256 of all: {whole}\n"


@pytest.fixture(autouse=True)
def _requests_neither(no_time: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {"requests": 12, "requests_per_minute": None, "waited_s": 0.0}
    monkeypatch.setattr(Store, "throughput", lambda _store, _run_id: reached)


@pytest.fixture(autouse=True)
def _machines_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    of_this_one = summary.provenance_of

    def of_any(run: RunRow) -> Provenance:
        versions = dict.fromkeys(of_this_one(run)["versions"], "VERSION")
        named = {"python": "PYTHON", "platform": "SYSTEM", "cpu": "PROCESSOR", "kvbench": "VERSION"}
        return {**of_this_one(run), **named, "versions": versions}

    monkeypatch.setattr(summary, "provenance_of", of_any)


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("kind", MORE)
def test_everything_is_as_pinned(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kvbench"])  # it is told as how the run was begun
    monkeypatch.setenv("KVBENCH_DIR", "reports")
    measure(tmp_path, kind)
    pinned = GOLDEN / kind
    for name, text in results(tmp_path):
        got = shortened(timeless(text, tmp_path))
        if os.environ.get("KVBENCH_PIN"):
            pinned.mkdir(parents=True, exist_ok=True)
            (pinned / name).write_text(got, encoding="utf-8")
        assert got == (pinned / name).read_text(encoding="utf-8"), name
