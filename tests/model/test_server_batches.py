"""Batches on the real server: the same answers as live, and nothing lost by a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.model.conftest import MODEL, Server, launch, parts
from tests.support.patience import wait_for

pytestmark = pytest.mark.model

ARMS = [{"policy": "none"}, {"policy": "knorm", "budget": 0.5}]


def body(index: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": parts(index)}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 8, "kv": ARMS}


def submit(sdk: openai.OpenAI, lines: list[dict[str, Any]]) -> Any:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    sent = sdk.files.create(file=("in.jsonl", content), purpose="batch")
    return sdk.batches.create(
        input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


def test_a_killed_server_ends_its_batch_with_the_answers_it_gives_live(
    server: Server, tmp_path: Path
) -> None:
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body(n)}
        for n in range(6)
    ]
    lines.append({**lines[0], "custom_id": "bad", "body": {**body(0), "kv": {"policy": "nobody"}}})
    work = ("--batches", str(tmp_path / "work"))
    process, address = launch(tmp_path, *work)
    sdk = openai.OpenAI(base_url=address["base_url"], api_key="none")
    bad = submit(sdk, [{**lines[0], "custom_id": "\ud800"}])
    batch = submit(sdk, lines)
    files = tmp_path / "work/files"
    wait_for(lambda: sum(p.stat().st_size for p in files.glob("*-output.data")))
    process.kill()
    process.wait(60)
    (tmp_path / "address.json").unlink()

    process, address = launch(tmp_path, *work)
    sdk = openai.OpenAI(base_url=address["base_url"], api_key="none")
    wait_for(lambda: sdk.batches.retrieve(batch.id).status == "completed")
    assert sdk.batches.retrieve(bad.id).status == "failed"  # and it kept nobody up
    process.kill()
    process.wait(60)
    (refused,) = (tmp_path / "work/files").glob("*-errors.data")
    assert json.loads(refused.read_text())["response"]["body"]["error"]["code"] == "unknown_policy"
    (output,) = (tmp_path / "work/files").glob("*-output.data")
    answered = {line["custom_id"]: line for line in map(json.loads, output.open())}
    assert set(answered) == {f"r{n}" for n in range(6)}
    for n in (0, 5):
        live = server.post("/v1/chat/completions", body(n)).json()
        assert answered[f"r{n}"]["response"]["body"]["choices"] == live["choices"]


def test_without_a_folder_it_says_how(server: Server) -> None:
    reply: httpx.Response = server.http.get("/v1/batches/x")
    assert reply.status_code == 404
    assert "--batches DIR" in reply.json()["error"]["message"]
