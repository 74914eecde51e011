"""`chat:PATH`: logged requests, with or without a reply that is known to be right.

A line is a request's body as OpenAI's Chat Completions has it (`{"messages": [...]}`, also inside
`body`, as in the files of batches, or inside `request`), or `{"prompt": "..."}`. What was said
before the last message is the context, the last message is the question. A last message of the
assistant's own is no question but the reference of a reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import brief, odd_value
from pytest_kvbench.records import Example, Prompt, canonical, digest
from pytest_kvbench.score.metric import get_metric
from pytest_kvbench.tasks.base import (
    Options,
    TaskOptions,
    example_id,
    read_options,
    template_version,
)
from pytest_kvbench.tasks.columns import Row, check_cluster, list_in
from pytest_kvbench.tasks.given import OneFile
from pytest_kvbench.tasks.jsonl import read_jsonl
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.conversation import Conversation, Message

PREFIX = "chat:"
NEEDED = (
    'needed on each line: {"messages": [{"role": "user", "content": "..."}, ...]}, a logged '
    'request that holds them, or {"prompt": "..."}'
)
_AROUND = ("body", "request")
"""Under which a log may hold the request's own body."""


class ChatOptions(TaskOptions):
    """Options of logs: new tokens of a reply, and the metric where replies are scored."""

    metric: str = "rouge_l"
    max_tokens: int = Field(default=64, ge=1)


@dataclass(frozen=True)
class ChatTask(OneFile):
    """Logged requests in the file `path`; each is sent as it was."""

    prefix: ClassVar[str] = PREFIX
    path: Path
    options: ChatOptions

    @property
    def metric(self) -> str:
        """Of replies, where a reference is given."""
        return self.options.metric

    @property
    def max_length(self) -> int | None:
        """None: a request is never cut, as it would no longer be the one that was logged."""
        return None

    @cached_property
    def template_version(self) -> str:
        """Digest of the options; the wording is the log's."""
        return template_version(max_tokens=self.options.max_tokens)

    def _whole_prompt(self, example: Example) -> Prompt:
        if not example.meta["chat"]:
            return Prompt("", example.question, self.options.max_tokens, chat=False)
        turns = tuple(json.loads(example.context)) if example.context else ()
        last = sound.fields(example.meta["last"])
        tools = tuple(list_in(example.meta["tools"], "tools"))
        return Prompt(
            head="",
            tail=example.question,
            max_tokens=self.options.max_tokens,
            conversation=Conversation(turns, last, tools),
        )

    def every_example(self, _tokenizer: Tokenizer) -> Iterator[Example]:
        """The example of every line, in the log's order."""
        for number, row in enumerate(read_jsonl(self.path), start=1):
            try:
                yield row_example(row)
            except ValueError as error:
                raise UsageError(f"{self.path}: row {number}: {error}", NEEDED) from error


def chat(path: str, options: Options) -> ChatTask:
    """The task of the log in `path`, relative to the working directory.

    Raises:
        UsageError: an option or a metric that does not exist.
    """
    read = read_options(ChatOptions, f"{PREFIX}{path}", options)
    get_metric(read.metric)
    return ChatTask(Path(path), read)


def row_example(row: Row) -> Example:
    """The example of one logged request.

    Its identity is its content: what was logged twice, under two ids, is one example. Requests of
    one conversation are one cluster: those that begin with the same message of a user's, or that
    name the same `cluster`.

    Raises:
        ValueError: it is no request that can be sent again.
    """
    check_cluster(row)
    body = _body(row)
    if odd := odd_value(dict(body)):
        raise ValueError(": ".join(odd))
    example = _plain(body["prompt"]) if "prompt" in body else _conversation(body)
    source = row.get("id", row.get("custom_id"))
    noted = {"id": source} if isinstance(source, str | int) else {}
    cluster = {"cluster": row["cluster"]} if row.get("cluster") is not None else {}
    return replace(example, meta={**example.meta, **noted, **cluster})


def _body(row: Row) -> Row:
    for name in _AROUND:
        if isinstance(inside := row.get(name), Mapping):
            return inside
    return row


def _plain(prompt: object) -> Example:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt is {brief(prompt)}, not a text")
    return Example(example_id("chat", prompt, "", ()), prompt, "", (), {"chat": False})


def _conversation(body: Row) -> Example:
    messages, reply = _messages(body.get("messages")), ""
    if messages[-1]["role"] == "assistant":
        reply = _text(messages.pop())
    answers = (reply,) if reply.strip() else ()
    if not messages:
        raise ValueError("messages hold nothing but a reply")
    *turns, last = messages
    question = _text(last)
    if not question.strip():
        raise ValueError(f"the last message, of role {brief(last['role'])}, has no text")
    tools = _tools(body.get("tools"))
    context = canonical(turns).decode() if turns else ""
    beside = {name: value for name, value in last.items() if name != "content"}
    identity = digest(["chat", messages, tools, list(answers)])[:16]
    first = next((_text(one) for one in messages if one["role"] == "user"), "")
    meta = {
        "chat": True,
        "last": beside,
        "tools": tools,
        "cluster": digest(["chat", first or identity])[:16],
    }
    return Example(identity, question, context, answers, meta)


def _messages(value: object) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"messages are {'missing' if value is None else brief(value)}, not a list")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"a message is {brief(message)}, without a role")
        _text(message)
    return [dict(message) for message in value]


def _tools(value: object) -> list[object]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"tools are {brief(value)}, not a list")
    return value or []


def _text(message: Message) -> str:
    """The text of a message; "" of one that only calls tools."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"the content of a message is {brief(content)}, not a text")
    return "".join(_part(part) for part in content)


def _part(part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        raise ValueError(f"a message holds {brief(part)}: parts that are no text are not served")
    return text
