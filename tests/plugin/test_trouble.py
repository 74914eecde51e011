"""A server that answers 3 of 10 questions with trouble: what is lost is counted, never scored."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from tests.conftest import Project
from tests.support.wire import Wire

KINDS = ("429", "500", "hang", "garbage", "truncated", "empty")


def kind_of(body: dict[str, Any]) -> str:
    """The trouble a prompt meets, always the same; most meet none."""
    prompt = body["messages"][-1]["content"]
    drawn = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
    return KINDS[drawn % len(KINDS)] if drawn // 100 % 10 < 3 else ""


async def _hanging() -> AsyncIterator[str]:
    await asyncio.sleep(60)
    yield ""


def trouble(number: int, body: dict[str, Any]) -> Response | None:
    kind = kind_of(body)
    if kind in ("429", "500"):
        error = {"error": {"message": "busy"}}
        return JSONResponse(error, status_code=int(kind), headers={"Retry-After": "0"})
    if kind == "hang":
        return StreamingResponse(_hanging(), media_type="text/event-stream")
    if kind == "garbage":
        return PlainTextResponse("<html>")
    if kind == "truncated":
        event = 'data: {"choices": [{"index": 0, "delta": {"content": "re"}}]}\n\n'
        return StreamingResponse(iter([event]), media_type="text/event-stream")
    if kind == "empty":
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": ""}}
        return JSONResponse({"choices": [choice], "usage": {"prompt_tokens": 9}})
    return None


def stored(project: Project) -> tuple[int, int, Counter[str], Counter[str]]:
    """Requests, answers, failures by kind and labels."""
    with sqlite3.connect(project.path / "reports" / "g" / "kvbench.sqlite") as db:
        requests, answers = (
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("requests", "answers")
        )
        kinds = Counter(kind for (kind,) in db.execute("SELECT kind FROM failures"))
        labels = Counter(label for (label,) in db.execute("SELECT label FROM scores"))
    return requests, answers, kinds, labels


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_trouble_is_counted_by_its_kind_and_mended_by_a_healthy_server(
    project: Project, n: str
) -> None:
    with Wire(trouble=trouble) as control, Wire(trouble=trouble) as treated:
        (project.path / "exp.yaml").write_text(
            f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 2, per_bin: 30, edges: [150]}}
kv: {{policies: [mine], budgets: [1.0]}}
engine:
  name: openai
  model: m
  endpoints: {{none: "{control.base_url}", mine: {{base_url: "{treated.base_url}", budget: 0.5}}}}
  stream: true
  timeout_s: 1
  retries: 1
  concurrency: 32
tokenizer: approximate
"""
        )
        result = project.run("-n", n)
        assert result.ret == 10, "pairs were lost: nothing can be said of these cells"
        met = Counter(
            map(kind_of, {b["messages"][-1]["content"]: b for b in control.asked}.values())
        )
        assert set(met) == {"", *KINDS}
        requests, answers, failures, labels = stored(project)
        assert requests == 2 * 60
        assert answers + sum(failures.values()) == requests
        assert failures["TIMEOUT"] == 2 * met["hang"]
        assert failures["ENGINE_ERROR"] == 2 * sum(
            met[k] for k in ("429", "500", "garbage", "truncated")
        )
        assert labels["EMPTY_OUTPUT"] == 2 * met["empty"]
        control.trouble = treated.trouble = lambda number, body: None
        control.asked.clear()
        treated.asked.clear()
        project.run("-n", n).assert_outcomes(passed=4)
        assert len(control.asked) == len(treated.asked) == sum(failures.values()) / 2
    summary = project.summary()
    assert summary["integrity"]["failures"] == {}
    assert not summary["partial"]
    means = {c["control_mean"] for c in summary["cells"] if c["bin"] == "all"}
    assert means == {1 - met["empty"] / 60}, "what was lost was not scored as wrong"
