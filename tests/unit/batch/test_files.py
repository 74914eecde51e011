"""Requests as lines, lines in files, and results read back: nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.batch.files import Lane, Limits, Splitter, Written, clipped, keys_of
from pytest_kvbench.batch.lines import Writer, read
from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.errors import GuardError, UsageError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import Answer, Arm, Failure, Prompt, Request, Sampling
from pytest_kvbench.store.keys import Keys

LANE = Lane("none", "http://x/v1", "/v1/completions")
HOSTED = {"name": "openai", "model": "m", "base_url": "http://x/v1"}
TOUCHED = {"name": "openai", "model": "m", "base_url": "http://x/v1", "extra_body": {"top_k": 1}}
EMBEDDED = {"name": "local", "model": "m", "base_url": "http://x/v1"}


def experiment(**engine: Any) -> Experiment:
    policies = ["none"] if engine["name"] == "openai" else ["snapkv"]
    keys = {"group": "g", "tasks": ["niah/single"], "kv": {"policies": policies}, "engine": engine}
    return Experiment(**keys)


prompts = st.builds(
    Prompt,
    head=st.text(),
    tail=st.text(),
    max_tokens=st.integers(1, 9),
    chat=st.booleans(),
    stop=st.lists(st.text(min_size=1), max_size=2).map(tuple),
)
requests = st.builds(
    Request,
    arm=st.builds(
        Arm,
        *map(st.just, ("e", "m", "f", "none", 1.0)),
        sampling=st.builds(Sampling, st.floats(0, 2), st.floats(0.1, 1), st.integers(0, 9)),
        template_version=st.just("t"),
    ),
    task=st.just("t"),
    bin=st.integers(0, 3),
    example_id=st.text(),
    replicate=st.integers(0, 3),
    prompt=prompts,
)


@given(requests, st.sampled_from([HOSTED, TOUCHED, EMBEDDED]))
def test_a_line_says_all_of_a_request(request_: Request, engine: dict[str, Any]) -> None:
    lane, line = Writer(experiment(**engine)).line(request_)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    data, prompt = json.loads(line), request_.prompt
    assert set(data) == {"custom_id", "method", "url", "body"}
    assert (data["custom_id"], data["method"], data["url"]) == (request_.key, "POST", lane.url)
    body = data["body"]
    assert (lane.url == "/v1/chat/completions") == prompt.chat == ("messages" in body)
    content = body["messages"][0]["content"] if prompt.chat else body["prompt"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    assert text == prompt.text
    assert body["seed"] == request_.arm.sampling.seed + request_.replicate
    assert body["temperature"] == request_.arm.sampling.temperature
    assert body.get("stop", []) == list(prompt.stop)
    assert body.get("top_k") == (1 if engine is TOUCHED else None)
    assert ("kv" in body) == (engine is EMBEDDED)
    assert body["max_tokens"] == prompt.max_tokens


@given(st.text(), st.text(), st.none() | st.integers(0, 9), st.booleans())
def test_a_result_line_is_the_answer(key: str, text: str, tokens: int | None, chat: bool) -> None:
    reply: dict[str, Any] = {"message": {"content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": tokens, "completion_tokens": 2}
    body = {"choices": [{"finish_reason": "stop", **reply}], "usage": usage}
    line = {"custom_id": key, "response": {"status_code": 200, "body": body}, "error": None}
    found = read(json.dumps(line).encode(), KINDS["openai"]).outcome
    assert isinstance(found, Answer)
    assert (found.key, found.text, found.finish_reason) == (key, text, "stop")
    assert found.telemetry.latency_s is None
    assert (found.telemetry.prompt_tokens, found.telemetry.completion_tokens) == (tokens or None, 2)


@pytest.mark.parametrize(
    ("said", "kind", "tried", "told"),
    [
        ({"error": {"code": "batch_expired", "message": "late"}}, "TIMEOUT", False, "late"),
        ({"error": {"code": "server_error", "message": "oh"}}, "ENGINE_ERROR", True, "oh"),
        ({"error": "plain words"}, "ENGINE_ERROR", True, "plain words"),
        (
            {"response": {"status_code": 400, "body": {"error": {"message": "too long"}}}},
            *("ENGINE_ERROR", True, "HTTP 400: too long"),
        ),
        ({"response": {"status_code": 200, "body": {}}}, "ENGINE_ERROR", True, "no completion"),
        (
            {"response": {"status_code": 200, "body": {"object": "error", "message": "too long"}}},
            *("ENGINE_ERROR", True, "too long"),
        ),
        (
            {"response": {"status_code": 422, "body": {"detail": [{"msg": "no such field"}]}}},
            *("ENGINE_ERROR", True, "HTTP 422: no such field"),
        ),
        ({"response": None, "error": None}, "ENGINE_ERROR", True, "no reply"),
    ],
)
def test_a_line_without_an_answer_is_a_failure(
    said: dict[str, Any], kind: str, tried: bool, told: str
) -> None:
    found = read(json.dumps({"custom_id": "k", **said}).encode(), KINDS["openai"])
    assert isinstance(found.outcome, Failure)
    assert (found.outcome.kind, found.tried) == (kind, tried)
    assert told in found.outcome.message or "is not a completion" in found.outcome.message


@pytest.mark.parametrize("line", [b"<html>", b"[]", b'{"response": {}}', b'{"custom_id": 3}'])
def test_what_is_no_result_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(line, KINDS["openai"])


# -- files ---------------------------------------------------------------------------------------


def splitter(folder: Path, done: list[Written], limits: Limits) -> Splitter:
    return Splitter(lambda _: folder / f"{len(done)}.jsonl", done.append, limits)


@given(st.lists(st.integers(20, 60), max_size=30))
def test_files_stay_within_their_limits_and_hold_all(tmp_path_factory: Any, sizes: list[int]):
    folder, done = tmp_path_factory.mktemp("split"), list[Written]()
    lines = [b'{"custom_id": "%04d"%s}\n' % (n, b" " * size) for n, size in enumerate(sizes)]
    limits = Limits(requests=4, bytes=200)
    with splitter(folder, done, limits) as files:
        for line in lines:
            files.add(LANE, line)
    assert b"".join(file.path.read_bytes() for file in done) == b"".join(lines)
    assert all(f.requests <= 4 and f.path.stat().st_size == f.bytes <= 200 for f in done)
    assert [hashlib.sha256(f.path.read_bytes()).hexdigest() for f in done] == [
        f.sha256 for f in done
    ]
    keys = [key for f in done for some in keys_of(f.path, f.sha256) for key in some]
    assert keys == [f"{n:04d}" for n in range(len(sizes))]


def test_a_line_that_no_file_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="larger than a batch file"):  # noqa: SIM117
        with splitter(tmp_path, [], Limits(bytes=10)) as files:
            files.add(LANE, b"x" * 11)


@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=5),
    st.integers(1, 7),
)
def test_of_a_line_too_long_the_beginning_is_kept(lines: list[bytes], size: int) -> None:
    content = b"\n".join(lines)
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    assert b"".join(clipped(pieces, 4)) == b"\n".join(line[:5] for line in lines)


def test_a_line_that_does_not_end_is_refused() -> None:
    kept: list[bytes] = []
    with pytest.raises(ValueError, match="does not end"):
        kept.extend(clipped(repeat(b"x" * 1000), 10))
    assert len(b"".join(kept)) == 11


def test_a_file_that_is_not_whole_has_no_name(tmp_path: Path) -> None:
    done: list[Written] = []
    files = splitter(tmp_path, done, Limits())
    files.add(LANE, b"x\n")
    files.__exit__(KeyboardInterrupt)
    assert not done
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("change", ["alter", "cut", "remove"])
def test_an_altered_file_is_refused(tmp_path: Path, change: str) -> None:
    done: list[Written] = []
    with splitter(tmp_path, done, Limits()) as files:
        files.add(LANE, b'{"custom_id": "a", "body": 1}\n')
        files.add(LANE, b'{"custom_id": "b", "body": 1}\n')
    (file,) = done
    content = file.path.read_bytes()
    if change == "remove":
        file.path.unlink()
    else:
        file.path.write_bytes(content[:30] if change == "cut" else content.replace(b"1", b"2"))
    with pytest.raises(GuardError, match="sha256"):
        list(keys_of(file.path, file.sha256))


def many(count: int) -> Iterator[bytes]:
    """Lines as an experiment's, each with a key of its own."""
    arm = Arm("openai", "m", "f", "none", 1.0, Sampling(), "t")
    request = Request(arm, "t", 0, "0", 0, Prompt("the lake lies still " * 5, "Say word", 8))
    _, line = Writer(experiment(**HOSTED)).line(request)
    for n in range(count):
        yield line.replace(request.key.encode(), b"%064x" % n)


def test_120_000_requests_are_split_in_flat_memory(tmp_path: Path) -> None:
    done: list[Written] = []
    keys, kept = Keys(), list[int]()
    with splitter(tmp_path, done, Limits()) as files:
        for n, line in enumerate(many(120_000)):
            # What stays of 2,000 lines: tracing all of them would take ten times as long.
            if n % 40_000 == 2_000:
                tracemalloc.start()
            files.add(LANE, line)
            if n % 40_000 == 4_000:
                kept.append(tracemalloc.get_traced_memory()[0])
                tracemalloc.stop()
    assert [file.requests for file in done] == [50_000, 50_000, 20_000]
    assert len(kept) == 3
    assert max(kept) < 20_000
    for file in done:
        for some in keys_of(file.path, file.sha256):
            keys.add(some, file.path.stem)
    assert len(keys) == 120_000
    keys.close()


# -- keys ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from("ab"))), st.sets(st.integers(0, 9)))
def test_keys_are_a_set_that_knows_where_from(added: list[tuple[int, str]], seen: set[int]) -> None:
    keys, first = Keys(), dict[str, str]()
    for n, batch in added:
        keys.add([str(n)], batch)
        first.setdefault(str(n), batch)
    assert len(keys) == len(first)
    assert keys.batches([str(n) for n in range(401)]) == first
    keys.mark(map(str, seen))
    assert {key for some in keys.unmarked() for key in some} == first.keys() - set(map(str, seen))
    keys.close()
