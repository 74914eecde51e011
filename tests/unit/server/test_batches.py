"""Files and batches of the embedded server, through the OpenAI SDK; the model is scripted."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

from pytest_kvbench.errors import UsageError
from pytest_kvbench.server.batch_files import BadFile, read_requests
from pytest_kvbench.server.batches import WINDOW_S, Shelf
from pytest_kvbench.server.limits import MOST_JSON_BYTES
from pytest_kvbench.server.protocol import ApiError
from tests.support.odd_json import with_odd_fields

CHAT = "/v1/chat/completions"


@dataclass
class Model:
    """Answers with the prompt; refuses `bad`; dies with the whole server at `dies_at`."""

    answered: Counter[str] = field(default_factory=Counter)
    hold: bool = False
    clock: Callable[[], float] = time.time

    async def complete(self, endpoint: str, body: bytes) -> tuple[int, dict[str, Any]]:
        while self.hold and sum(self.answered.values()) >= 2:
            await anyio.sleep(0.002)
        prompt = json.loads(body)["prompt"]
        self.answered[prompt] += 1
        if prompt == "bad":
            return 400, ApiError(400, "no", code="no").body
        return 200, {"text": prompt.upper()}


@pytest.fixture
def model() -> Model:
    return Model()


@contextlib.contextmanager
def served(folder: Path, model: Model, fingerprint: str = "f") -> Iterator[openai.OpenAI]:
    shelf = Shelf(folder, model.complete, fingerprint, lambda: model.clock())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with shelf.working():
            yield

    async def refused(_request: Any, error: Any) -> Response:
        return JSONResponse(error.body, status_code=error.status)

    app = Starlette(
        routes=shelf.routes(), lifespan=lifespan, exception_handlers={ApiError: refused}
    )
    with TestClient(app) as http:
        yield openai.OpenAI(
            base_url="http://testserver/v1", api_key="none", http_client=http, max_retries=0
        )


def lines(*prompts: str) -> bytes:
    return b"".join(
        json.dumps(
            {"custom_id": f"id-{p}", "method": "POST", "url": CHAT, "body": {"prompt": p}}
        ).encode()
        + b"\n"
        for p in prompts
    )


def submit(sdk: openai.OpenAI, content: bytes) -> Any:
    sent = sdk.files.create(file=("in.jsonl", content), purpose="batch")
    return sdk.batches.create(
        input_file_id=sent.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"ledger": "x"},
    )


def wait(sdk: openai.OpenAI, batch: Any, *status: str) -> Any:
    for _ in range(2000):
        batch = sdk.batches.retrieve(batch.id)
        if batch.status in (status or ("completed", "failed", "expired", "cancelled")):
            return batch
        time.sleep(0.005)
    raise AssertionError(batch)


def results(sdk: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    text = sdk.files.content(file_id).text
    found = [json.loads(line) for line in text.splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found)
    return {line["custom_id"]: line for line in found}


def test_a_batch_from_upload_to_download(tmp_path: Path, model: Model) -> None:
    with served(tmp_path, model) as sdk:
        batch = wait(sdk, submit(sdk, lines("a", "bad", "c")))
        assert batch.status == "completed"
        assert batch.metadata == {"ledger": "x"}
        assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
        output = results(sdk, batch.output_file_id)
        assert {k: v["response"]["body"]["text"] for k, v in output.items()} == {
            "id-a": "A",
            "id-c": "C",
        }
        (refused,) = results(sdk, batch.error_file_id).values()
        assert refused["response"]["status_code"] == 400
        assert len([f.id for f in sdk.files.list(limit=2)]) == 3  # over two pages
        assert {f.purpose for f in sdk.files.list()} == {"batch", "batch_output"}
        assert [b.id for b in sdk.batches.list()] == [batch.id]
        sdk.files.delete(batch.input_file_id)
        with pytest.raises(openai.NotFoundError):
            sdk.files.retrieve(batch.input_file_id)


def test_a_server_that_comes_back_goes_on(tmp_path: Path, model: Model) -> None:
    model.hold = True
    prompts = [f"p{n}" for n in range(30)]
    with served(tmp_path, model) as sdk:
        batch = submit(sdk, lines(*prompts))
        while sum(model.answered.values()) < 2:
            time.sleep(0.005)
    (output,) = (tmp_path / "files").glob("*-output.data")
    done = output.read_text().count("\n")
    assert done >= 2
    with output.open("a") as torn:
        torn.write('{"id": "x", "custom_id": "id-p29", "resp')  # killed in mid-write
    model.hold = False
    with served(tmp_path, model) as sdk:
        batch = wait(sdk, batch)
        assert batch.request_counts.completed == 30
        assert set(results(sdk, batch.output_file_id)) == {f"id-{p}" for p in prompts}
    assert set(model.answered.values()) <= {1, 2}
    assert sum(model.answered.values()) <= 30 + 8  # what was under way


def test_cancelling_keeps_what_was_answered(tmp_path: Path, model: Model) -> None:
    model.hold = True
    with served(tmp_path, model) as sdk:
        batch = submit(sdk, lines(*(f"p{n}" for n in range(30))))
        while sum(model.answered.values()) < 2:
            time.sleep(0.005)
        assert sdk.batches.cancel(batch.id).status == "cancelling"
        with pytest.raises(openai.ConflictError):
            sdk.files.delete(batch.input_file_id)
        model.hold = False
        batch = wait(sdk, batch)
        assert batch.status == "cancelled"
        assert batch.cancelling_at is not None
        assert 2 <= len(results(sdk, batch.output_file_id)) < 30
        with pytest.raises(openai.ConflictError):
            sdk.batches.cancel(batch.id)


def test_what_is_not_answered_in_time_expires(tmp_path: Path, model: Model) -> None:
    model.hold = True
    with served(tmp_path, model) as sdk:
        batch = submit(sdk, lines(*(f"p{n}" for n in range(20))))
        while sum(model.answered.values()) < 2:
            time.sleep(0.005)
        model.clock = lambda: time.time() + WINDOW_S + 1
        model.hold = False
        batch = wait(sdk, batch)
        assert batch.status == "expired"
        late = results(sdk, batch.error_file_id).values()
        assert {line["error"]["code"] for line in late} == {"batch_expired"}
        assert len(late) + len(results(sdk, batch.output_file_id)) == 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json\n", "line 1: Expecting value"),
        (b"[]\n", "line 1: is not a JSON object"),
        (b"\n" + lines("a", "a"), "line 3: the custom_id 'id-a' comes twice"),
        (lines("a").replace(b"chat/", b""), "line 1: url: is '/v1/completions', and the batch is"),
        (lines("a").replace(b"POST", b"GET"), "line 1: method: Input should be 'POST'"),
        (lines("a").replace(b"custom_id", b"id"), "line 1: custom_id: Field required"),
        (lines("a").replace(b'"id-a"', b"7"), "line 1: custom_id: Input should be a valid string"),
        (lines("a").replace(b"id-a", b"\\ud800"), "line 1: custom_id: "),
        (lines("a").replace(b'{"prompt": "a"}', b"[1]"), "line 1: body: "),
        (lines("a", "b").replace(b"id-b", b"\xff"), "line 2: 'utf-8' codec can't decode"),
        (lines("a").replace(b'"a"', b"[" * 200_000), "line 1: "),
        (lines("a").replace(b'"a"', b"9" * 5000), "line 1: Exceeds the limit"),
        (lines("a").replace(b"id-a", b"x" * 2**20), "line 1: custom_id: "),
    ],
)
def test_a_file_that_cannot_be_served_fails_as_a_whole_and_no_other_does(
    tmp_path: Path, model: Model, content: bytes, said: str
) -> None:
    with served(tmp_path, model) as sdk:
        bad, good = submit(sdk, content), submit(sdk, lines("good"))
        assert wait(sdk, good).status == "completed"
        bad = wait(sdk, bad)
        assert bad.status == "failed"
        (problem,) = bad.errors.data
        assert said in problem.message
        assert problem.line == int(problem.message.removeprefix("line ").partition(":")[0])
        assert len(problem.message) < 2000
        assert set(model.answered) == {"good"}
    with served(tmp_path, model) as sdk:  # nor does a server that comes back trip over it
        assert wait(sdk, bad).status == "failed"
        assert wait(sdk, submit(sdk, lines("later"))).status == "completed"


LINE = json.loads(lines("a"))


@given(st.binary(max_size=40) | with_odd_fields(LINE, ()).map(json.dumps).map(str.encode))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_line_is_it_is_a_request_or_named(tmp_path: Path, odd: bytes) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(lines("good") + odd + b"\n")
    named, found = None, []
    try:
        found = list(read_requests(file, CHAT))
    except BadFile as error:
        named = error.line
    assert named is None or named >= 2
    assert all(isinstance(json.loads(asked.body), dict) for asked in found)
    "".join(asked.name for asked in found).encode()


def test_what_goes_wrong_with_one_line_is_its_own_answer(tmp_path: Path, model: Model) -> None:
    too_long = json.dumps({**json.loads(lines("long")), "body": {"prompt": "x" * MOST_JSON_BYTES}})
    content = lines("a").replace(b'"prompt"', b'"promt"') + too_long.encode() + b"\n" + lines("b")
    with served(tmp_path, model) as sdk:
        batch = wait(sdk, submit(sdk, content))
        assert batch.status == "completed"
        failed = results(sdk, batch.error_file_id)
        assert {k: v["response"]["status_code"] for k, v in failed.items()} == {
            "id-a": 500,  # the scripted model's own KeyError
            "id-long": 413,
        }
        assert failed["id-a"]["response"]["body"]["error"]["type"] == "server_error"
        assert set(results(sdk, batch.output_file_id)) == {"id-b"}


def test_a_folder_that_was_tampered_with_stops_nobody(tmp_path: Path, model: Model) -> None:
    model.hold = True
    with served(tmp_path, model) as sdk:
        batches = [submit(sdk, lines(*(f"{b}{n}" for n in range(9)))) for b in "xyz"]
        while sum(model.answered.values()) < 2:
            time.sleep(0.005)
    model.hold = False
    for number, content in enumerate((b"{", b"\xff", b"[]", b'{"id": 3}', b"[" * 100_000)):
        (tmp_path / f"batches/batch-0{number}.json").write_bytes(content)
    (output,) = (tmp_path / "files").glob("*-output.data")
    output.write_text("no answer\n" + output.read_text())
    (tmp_path / f"files/{batches[1].input_file_id}.data").unlink()
    with served(tmp_path, model) as sdk:
        assert [wait(sdk, batch).status for batch in batches] == ["failed", "failed", "completed"]
        assert len(list(sdk.batches.list())) == 3
        with pytest.raises(openai.NotFoundError):
            sdk.batches.retrieve("batch-00")


ASKED = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"}


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"endpoint": ["x"]}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"input_file_id": "x" * 5000}, 404, None),
        ({"input_file_id": "a\x00b"}, 404, None),
        ({"metadata": {"a": float("nan")}}, 400, "metadata.a"),
        ({"metadata": {"a": "\ud800"}}, 400, None),
        ({"metadata": {"a": "x" * 10_000}}, 400, "metadata.a"),
        ({"metadata": [[]]}, 400, "metadata"),
    ],
)
def test_a_batch_that_is_asked_for_oddly_is_refused(
    tmp_path: Path, model: Model, change: dict[str, Any], status: int, param: str | None
) -> None:
    with served(tmp_path, model) as sdk:
        http = sdk._client
        reply = http.post("/v1/batches", content=json.dumps({**ASKED, **change}).encode())
        assert reply.status_code == status
        assert reply.json()["error"]["param"] == param
        assert len(reply.text) < 2000


@pytest.mark.parametrize("limit", ["0", "-1", "x", "9" * 5000, "1e3", "٣", ""])
def test_a_list_is_asked_for_in_numbers(tmp_path: Path, model: Model, limit: str) -> None:
    with served(tmp_path, model) as sdk:
        for path in ("/v1/files", "/v1/batches"):
            assert sdk._client.get(path, params={"limit": limit}).status_code == 400


def test_another_server_does_not_go_on_with_a_batch(tmp_path: Path, model: Model) -> None:
    model.hold = True
    with served(tmp_path, model) as sdk:
        batch = submit(sdk, lines(*(f"p{n}" for n in range(30))))
        with pytest.raises(UsageError, match="another server works on it"):
            Shelf(tmp_path, model.complete, "f")
    with served(tmp_path, model, fingerprint="other") as sdk:
        assert wait(sdk, batch).status == "failed"


@pytest.mark.parametrize(
    "name", ["file-x", "../batches/x", "%2e%2e%2fx", "x" * 3000, "%00", "%ff", "a%0a"]
)
def test_what_is_not_there_is_404(tmp_path: Path, model: Model, name: str) -> None:
    with served(tmp_path, model) as sdk, pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(name)
