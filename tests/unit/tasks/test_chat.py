"""`chat:PATH`: logged requests become examples, and go out as they were logged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.engines.body import chat_fields
from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.chat import row_example
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
AGENT = [
    {"role": "user", "content": "Is it sunny?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "yes"},
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("Count ", "to 3")]}]


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(*rows: Any, **options: Any):
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        task = get_task("chat:log.jsonl", options=options)
        return task, task.examples(BinSpec(1, (1,)), Approximate(), 0)

    return read


@pytest.mark.parametrize(
    "row",
    [
        {"messages": HELLO},
        {"id": "7", "model": "m", "temperature": 0.7, "stream": True, "messages": HELLO},
        {"custom_id": "a", "method": "POST", "url": "/v1/x", "body": {"messages": HELLO}},
        {"request": {"messages": HELLO}, "response": {"choices": []}},
        {"messages": PARTS},
        {"messages": AGENT, "tools": [TOOL]},
    ],
    ids=["bare", "body", "batch", "logged", "parts", "agent"],
)
def test_a_request_goes_out_as_it_was_logged(read, row):
    task, (example,) = read(row)
    body = row.get("body", row.get("request", row))
    prompt = task.prompt(example)
    sent = chat_fields(prompt, prompt.head + prompt.tail)
    *turns, last = body["messages"]
    content = last["content"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    assert sent["messages"] == [*turns, {**last, "content": text}]
    assert sent.get("tools") == body.get("tools")
    assert (example.question, example.answers, prompt.chat) == (text, (), True)


def test_a_last_reply_is_the_reference_and_is_not_sent(read):
    row = {"messages": [*HELLO, {"role": "assistant", "content": "A model."}]}
    task, (example,) = read(row, max_tokens=5)
    assert example.answers == ("A model.",)
    prompt = task.prompt(example)
    assert chat_fields(prompt, prompt.tail)["messages"] == HELLO
    assert prompt.max_tokens == 5


def test_a_plain_prompt_goes_without_a_chat_template(read):
    task, (example,) = read({"prompt": "Once upon a time"})
    prompt = task.prompt(example)
    assert (prompt.text, prompt.chat) == ("Once upon a time", False)


def test_what_was_logged_twice_is_asked_once(read):
    task, _ = read({"id": 1, "messages": HELLO}, {"id": 2, "messages": HELLO}, {"messages": AGENT})
    with pytest.warns(UserWarning, match="1 of 3 examples are repeats: left out"):
        manifest = build_task_manifest(task, BinSpec(1, (9,)), Approximate(), 0)
    assert len(manifest.entries) == 2


def test_turns_of_one_conversation_are_one_cluster(read):
    later = [*AGENT, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Sure?"}]
    _, (first, second, other, named) = read(
        {"messages": AGENT},
        {"messages": later},
        {"messages": HELLO},
        {"messages": HELLO[1:], "cluster": 3},
    )
    assert first.cluster == second.cluster
    assert len({first.cluster, other.cluster, named.cluster}) == 3


def test_earlier_turns_count_for_the_length(read):
    long = [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "Yes."}]
    task, _ = read({"messages": [*long, HELLO[1]]}, {"messages": HELLO})
    manifest = build_task_manifest(task, BinSpec(1, (9,)), Approximate(), 0)
    assert sorted(entry.tokens > 200 for entry in manifest.entries) == [False, True]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "messages are missing"),
        ({"messages": []}, "messages are"),
        ({"messages": "hi"}, "messages are"),
        ({"messages": [{"content": "hi"}]}, "without a role"),
        ({"messages": [{"role": "user", "content": 3}]}, "content of a message is 3"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text"),
        ({"messages": [{"role": "user", "content": " "}]}, "has no text"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "nothing but a reply"),
        ({"messages": HELLO, "tools": "none"}, "tools are"),
        ({"prompt": [1, 2]}, "prompt is"),
        ({"messages": HELLO, "cluster": True}, "cluster is"),
    ],
)
def test_what_cannot_be_sent_again_is_refused(read, row, said):
    with pytest.raises(UsageError) as caught:
        read({"messages": HELLO}, row)
    assert "log.jsonl: row 2: " in caught.value.what
    assert said in caught.value.what
    assert '"messages"' in caught.value.hint


def test_a_wrong_option_names_the_valid_ones(read):
    with pytest.raises(UsageError, match="valid options: metric, max_tokens"):
        read({"messages": HELLO}, metrics="f1")


_TEXT = st.text(min_size=1, max_size=20).filter(str.strip)
_TURN = st.builds(lambda role, text: {"role": role, "content": text}, st.just("user"), _TEXT)
_LOGS = st.lists(_TURN, min_size=1, max_size=4)


@given(_LOGS, _LOGS)
def test_identity_is_content(one, other):
    first, second = row_example({"messages": one, "id": 1}), row_example({"messages": other})
    assert (first.example_id == second.example_id) == (one == other)
    assert row_example({"messages": one}).example_id == first.example_id
