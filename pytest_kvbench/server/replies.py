"""What is sent back: choices, usage and timings, whole or in pieces, for chat and completions."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from pytest_kvbench.server.bodies import (
    CacheBody,
    ChoiceBody,
    ErrorBody,
    ForcedBody,
    Message,
    ReplyBody,
    Tail,
    TimingsBody,
)
from pytest_kvbench.server.engine import ArmReport, Done, Piece, Timings
from pytest_kvbench.server.jobs import Forced


@dataclass
class Reply:
    """One reply while its choices are being made."""

    model: str
    chat: bool
    prompt_tokens: int
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    reports: list[ArmReport] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    ends: dict[int, Piece] = field(default_factory=dict)
    done: Done = field(default_factory=lambda: Done(Timings(), 0))

    def start(self, reports: list[ArmReport]) -> None:
        """Begin a choice for each arm, once the caches are made."""
        self.reports = reports
        self.texts = [[] for _ in reports]

    def add(self, piece: Piece) -> None:
        """Add text to one arm's choice, and perhaps its end."""
        self.texts[piece.index].append(piece.text)
        if piece.report is not None:
            self.reports[piece.index] = piece.report
        if piece.finish_reason:
            self.ends[piece.index] = piece

    def whole(self) -> ReplyBody:
        """The finished reply, as the body of a response."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._choice(index) for index in range(len(self.reports))]
        return {**self._body(kind, choices), **self._tail()}

    def opening(self) -> Iterator[ReplyBody]:
        """The first piece of every arm: its cache."""
        for index, report in enumerate(self.reports):
            choice = self._added(index, {"role": "assistant", "content": ""})
            yield self._piece({**choice, "kv": _shown(report)})

    def piece(self, piece: Piece) -> ReplyBody:
        """What was added to a choice, as the data of a stream's event."""
        choice = self._added(piece.index, {"content": piece.text})
        if piece.finish_reason:
            choice["finish_reason"] = piece.finish_reason
            choice["completion_tokens"] = piece.completion_tokens
            if piece.report is not None:
                choice["kv"] = _shown(piece.report)
        return self._piece(choice)

    def closing(self) -> ReplyBody:
        """The piece with usage, timings and no choices."""
        return {**self._piece(), **self._tail()}

    def _added(self, index: int, message: Message) -> ChoiceBody:
        """A choice with what a piece adds to its message, or to its text."""
        choice: ChoiceBody = {"index": index, "finish_reason": None, "logprobs": None}
        return {**choice, "delta": message} if self.chat else {**choice, "text": message["content"]}

    def _choice(self, index: int) -> ChoiceBody:
        text, end = "".join(self.texts[index]), self.ends[index]
        choice: ChoiceBody = {
            "index": index,
            "finish_reason": end.finish_reason,
            "logprobs": None,
            "completion_tokens": end.completion_tokens,
            "kv": _shown(self.reports[index]),
        }
        if end.forced:
            choice["forced"] = _figures(end.forced)
        if self.chat:
            return {**choice, "message": {"role": "assistant", "content": text}}
        return {**choice, "text": text}

    def _piece(self, *choices: ChoiceBody) -> ReplyBody:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._body(kind, list(choices))

    def _body(self, kind: str, choices: list[ChoiceBody]) -> ReplyBody:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.identity}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _tail(self) -> Tail:
        new = sum(end.completion_tokens for end in self.ends.values())
        timings = cast("TimingsBody", dataclasses.asdict(self.done.timings))
        if not timings["force_s"]:
            del timings["force_s"]
        return {
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": new,
                "total_tokens": self.prompt_tokens + new,
                "prompt_tokens_details": {"cached_tokens": self.done.cached_tokens},
            },
            "timings": timings,
        }


def _shown(report: ArmReport) -> CacheBody:
    """A report as JSON; what is not so is left out."""
    whole = dataclasses.asdict(report)
    return cast("CacheBody", {k: v for k, v in whole.items() if k not in _EXTRA or v})


def _figures(forced: Forced) -> ForcedBody:
    """What an arm says of a reply; `k`: of the whole vocabulary, not of its likeliest tokens."""
    return cast("ForcedBody", {"k": None, **dataclasses.asdict(forced)})


_EXTRA = ("simulated", "while_decoding", "error")


def sse(data: ReplyBody | ErrorBody | str) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n"
