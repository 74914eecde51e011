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
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

from pytest_kvbench.engines.local.batches import ENDPOINTS, WINDOW_S, Shelf
from pytest_kvbench.engines.local.protocol import ApiError
from pytest_kvbench.errors import UsageError

CHAT = ENDPOINTS[0]


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
        (b"not json\n", "Expecting value"),
        (b"[]\n", "line 1: is not a JSON object"),
        (lines("a", "a"), "line 2: the custom_id 'id-a' comes twice"),
        (lines("a").replace(b"chat/", b""), "line 1: is not a POST to /v1/chat/completions"),
        (lines("a").replace(b"custom_id", b"id"), "line 1: custom_id or body is missing"),
    ],
)
def test_a_file_that_cannot_be_served_fails_as_a_whole(
    tmp_path: Path, model: Model, content: bytes, said: str
) -> None:
    with served(tmp_path, model) as sdk:
        batch = wait(sdk, submit(sdk, content))
        assert batch.status == "failed"
        assert said in batch.errors.data[0].message
        assert not model.answered


def test_another_server_does_not_go_on_with_a_batch(tmp_path: Path, model: Model) -> None:
    model.hold = True
    with served(tmp_path, model) as sdk:
        batch = submit(sdk, lines(*(f"p{n}" for n in range(30))))
        with pytest.raises(UsageError, match="another server works on it"):
            Shelf(tmp_path, model.complete, "f")
    with served(tmp_path, model, fingerprint="other") as sdk:
        assert wait(sdk, batch).status == "failed"


@pytest.mark.parametrize("name", ["file-x", "../batches/x", "%2e%2e%2fx"])
def test_what_is_not_there_is_404(tmp_path: Path, model: Model, name: str) -> None:
    with served(tmp_path, model) as sdk, pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(name)
