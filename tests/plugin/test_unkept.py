"""`store.texts: hash`: no text of a log, and none of a reply's, is anywhere afterwards."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.forced_server import ForcedServer

SECRET, SAID = "quetzalcoatlus", 31_337
"""What is in every prompt, and a token of every reply."""

EXPERIMENT = """\
group: g
tasks: ["chat:log.jsonl"]
bins: {n: 1, per_bin: 12}
kv: {policies: [snapkv], budgets: [1.0, 0.2]}
measure: divergence
store: {texts: hash}
gate: {max_lost: 0.2}
"""


class Secretive(ForcedServer):
    """Its replies hold a secret too, and so do its refusals."""

    def completion(self, body):
        done = super().completion(body)
        for choice in done["choices"]:
            choice["message"]["content"] += f" {SECRET}"
            forced = choice["forced"]
            for key in ("reference", "top"):
                forced[key] = [SAID, *forced[key][1:]]
        return done


@pytest.fixture
def mock() -> Iterator[Secretive]:
    with Secretive() as server:
        server.trouble = lambda number, body: (
            JSONResponse({"error": {"message": f"no {SECRET}"}}, 400) if number == 3 else None
        )
        yield server


def conversation(number: int) -> dict[str, object]:
    """Its secret is in every place that a text can have."""
    return {
        "id": number,
        "note": SECRET,
        "messages": [
            {"role": "system", "content": f"The word is {SECRET}."},
            {"role": "user", "content": f"I am {SECRET} {number}"},
            {"role": "assistant", "content": f"Hello {SECRET}."},
            {"role": "user", "content": f"Say {SECRET}{number} please"},
            {"role": "assistant", "content": f"{SECRET}{number}"},
        ],
    }


@pytest.fixture
def log(project: Project) -> Project:
    """An experiment on a log, in place of the words."""
    lines = "\n".join(json.dumps(conversation(number)) for number in range(12))
    (project.path / "log.jsonl").write_text(lines)
    text = (project.path / "exp.yaml").read_text()
    (project.path / "exp.yaml").write_text(EXPERIMENT + text[text.index("engine:") :])
    return project


def contents(path: Path) -> Iterator[bytes]:
    """What is in a file, and in those inside of it."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as inner:
            yield from (inner.extractfile(m).read() for m in inner if m.isfile())
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as inner:
            yield from map(inner.read, inner.namelist())


def places(root: Path, *words: str) -> set[str]:
    """The files below `root` that have one of `words` in their name or inside."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.name != "log.jsonl"
        for one in (path.name.encode(), *contents(path))
        if any(word.encode() in one for word in words)
    }


def keep(project: Project) -> None:
    path = project.path / "exp.yaml"
    path.write_text(path.read_text().replace("hash", "keep"))


def kvbench(*args: str) -> int:
    return CliRunner().invoke(main, list(args)).exit_code


@pytest.fixture
def batches(mock: Secretive) -> Iterator[BatchServer]:
    refused = itertools.count(1)
    with BatchServer() as server:
        server.reply = mock.completion
        server.error = lambda line: {"message": f"no {SECRET}"} if next(refused) == 3 else None
        yield server


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_text_is_nowhere(log: Project, mock: Secretive, workers: str) -> None:
    result = log.run("-n", workers, "--kvbench-report")
    assert result.ret == 0, result.stdout.str()
    assert "HTTP 400" in str(log.summary()["integrity"])
    look(log)


def test_nor_after_batches(log: Project, mock: Secretive, batches: BatchServer) -> None:
    path = log.path / "exp.yaml"
    engine = f'engine: {{name: local, model: mock, mode: batch, base_url: "{batches.base_url}"}}'
    path.write_text(re.sub(r"engine: \{.*\}", engine, path.read_text()))
    log.run("-n", "0")
    assert log.run("-n", "0", "--kvbench-report").ret == 0
    look(log)


@pytest.mark.slow
def test_nor_of_workers_elsewhere(log: Project, mock: Secretive) -> None:
    with (log.path / "exp.yaml").open("a") as file:
        file.write("\nexecutor: {name: parsl, workers: 1}\n")
    assert log.run("-n", "0", "--kvbench-report").ret == 0
    look(log)


def look(log: Project) -> None:
    """No text is in what a run leaves, nor in what can be made of it."""
    more = [("aggregate",), ("export", "g", "--csv", "rows", "--inspect", "logs"), ("archive", "g")]
    for args in more:
        assert kvbench(*args) == 0, args
    summary = log.summary()
    assert [c["n"] for c in summary["cells"] if c["policy"] == "snapkv" and c["bin"] == 0] == [11]
    assert places(log.path, SECRET, str(SAID)) == set()


def test_a_resumed_run_reads_the_prompts_anew(log: Project, mock: Secretive) -> None:
    log.run("-n", "0")
    mock.trouble = lambda number, body: None
    posts = mock.posts
    assert kvbench("run", "exp.yaml") == 0
    assert mock.posts == posts + 1, "what failed is asked again, and nothing else"
    assert places(log.path, SECRET, str(SAID)) == set()
    (log.path / "log.jsonl").write_text(json.dumps(conversation(99)))
    done = CliRunner().invoke(main, ["run", "exp.yaml", "--fresh"])
    assert done.exit_code == 4, done.output


def test_a_server_that_fails_is_told_by_its_status(log: Project, mock: Secretive) -> None:
    """What was not asked for its sake says so in our words, and is not what failed."""
    mock.trouble = lambda number, body: JSONResponse({"error": {"message": f"no {SECRET}"}}, 500)
    done = CliRunner().invoke(main, ["run", "exp.yaml"])
    assert done.exit_code == 10
    assert "requests was answered: HTTP 500: sha256:" in done.output
    assert places(log.path, SECRET, str(SAID)) == set()
    stored = (log.path / "reports" / "g" / "kvbench.sqlite").read_bytes()
    assert b"not asked: the server failed 5 requests alike" in stored


def test_where_texts_are_kept_the_search_finds_them(log: Project) -> None:
    keep(log)
    log.run("-n", "0")
    found = places(log.path, SECRET)
    assert {"reports/g/kvbench.sqlite", "reports/g/manifest.json"} <= found
    assert "reports/g/kvbench.sqlite" in places(log.path, str(SAID))


def test_a_group_that_kept_texts_cannot_promise_that_none_is_there(log: Project) -> None:
    keep(log)
    log.run("-n", "0")
    path = log.path / "exp.yaml"
    path.write_text(path.read_text().replace("keep", "hash"))
    result = log.run("-n", "0")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*group g: store.texts is hash, and was keep before*"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("measure: divergence", "measure: score", "*texts: hash keeps no reply to score*"),
        ("chat:log.jsonl", "niah/single", "*store.texts is hash, and niah/single asks texts*"),
        ("hash", "hashes", "*store.texts: 'hashes' is not valid*"),
    ],
)
def test_what_cannot_be_without_texts_is_refused(
    log: Project, old: str, new: str, said: str
) -> None:
    path = log.path / "exp.yaml"
    path.write_text(path.read_text().replace(old, new))
    result = log.run("-n", "0")
    assert result.ret == 4
    result.stdout.fnmatch_lines([said])


def test_replies_without_a_reference_are_not_scored(log: Project) -> None:
    lines = [{"messages": [{"role": "user", "content": f"Say red{n}"}]} for n in range(12)]
    (log.path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = log.path / "exp.yaml"
    kept = path.read_text().replace("store: {texts: hash}\n", "")
    path.write_text(kept.replace("measure: divergence", "measure: [score, divergence]"))
    result = log.run("-n", "0")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*chat:log.jsonl: 12 of 12 examples have no answer*"])
    path.write_text(kept)
    assert log.run("-n", "0").ret == 0
