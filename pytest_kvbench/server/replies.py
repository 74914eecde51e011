"""What is sent back: choices, usage and timings, whole or in pieces, for chat and completions."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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

    def whole(self) -> dict[str, Any]:
        """The finished reply, as the body of a response."""
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": [self._choice(index) for index in range(len(self.reports))],
            **self._tail(),
        }

    def opening(self) -> Iterator[dict[str, Any]]:
        """The first piece of every arm: its cache."""
        for index, report in enumerate(self.reports):
            delta = {"role": "assistant", "content": ""} if self.chat else ""
            yield self._chunk(index, delta, {"kv": _shown(report)})

    def piece(self, piece: Piece) -> dict[str, Any]:
        """What was added to a choice, as the data of a stream's event."""
        end: dict[str, Any] = {
            "finish_reason": piece.finish_reason,
            "completion_tokens": piece.completion_tokens,
        }
        if piece.report is not None:
            end["kv"] = _shown(piece.report)
        delta = {"content": piece.text} if self.chat else piece.text
        return self._chunk(piece.index, delta, end if piece.finish_reason else {})

    def closing(self) -> dict[str, Any]:
        """The piece with usage, timings and no choices."""
        return {**self._head(self._chunk_kind), "choices": [], **self._tail()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, index: int, delta: Any, more: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": index, "delta" if self.chat else "text": delta}
        finish = {"finish_reason": None, "logprobs": None, **more}
        return {**self._head(self._chunk_kind), "choices": [{**choice, **finish}]}

    def _choice(self, index: int) -> dict[str, Any]:
        text, end = "".join(self.texts[index]), self.ends[index]
        message = (
            {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        )
        return {
            "index": index,
            **message,
            "finish_reason": end.finish_reason,
            "logprobs": None,
            "completion_tokens": end.completion_tokens,
            "kv": _shown(self.reports[index]),
            **({"forced": _figures(end.forced)} if end.forced else {}),
        }

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.identity}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _tail(self) -> dict[str, Any]:
        new = sum(end.completion_tokens for end in self.ends.values())
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.prompt_tokens + new,
            "prompt_tokens_details": {"cached_tokens": self.done.cached_tokens},
        }
        timings = dataclasses.asdict(self.done.timings)
        if not timings["force_s"]:
            del timings["force_s"]
        return {"usage": usage, "timings": timings}


def _shown(report: ArmReport) -> dict[str, Any]:
    """A report as JSON; what is not so is left out."""
    whole = dataclasses.asdict(report)
    return {k: v for k, v in whole.items() if k not in _EXTRA or v}


def _figures(forced: Forced) -> dict[str, Any]:
    """What an arm says of a reply; `k`: of the whole vocabulary, not of its likeliest tokens."""
    return {"k": None, **dataclasses.asdict(forced)}


_EXTRA = ("simulated", "while_decoding", "error")


def sse(data: dict[str, Any] | str) -> str:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n"
