"""A streamed completion, put together again: server-sent events in, one reply out."""

from __future__ import annotations

import json
from typing import Any


class BrokenStreamError(Exception):
    """A stream that ended early, or holds what is not a completion."""


class Assembly:
    """One streamed completion, chat or plain, of one choice.

    `started` turns true with the first piece of text: the time to the first token.
    """

    def __init__(self) -> None:
        self.started = False
        self._chat = False
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._last: dict[str, Any] = {}

    def feed(self, line: str) -> None:
        """Take one line of the stream.

        Raises:
            BrokenStreamError: it is not an event of a completion, or it reports an error.
        """
        name, _, value = line.partition(":")
        if name == "error":  # llama.cpp names it so
            raise BrokenStreamError(f"in mid-stream: {value.strip()[:200]}")
        if name == "data" and value.strip() not in ("", "[DONE]"):
            self._take(value)

    def reply(self) -> dict[str, Any]:
        """The completion as an unstreamed reply would have it.

        Raises:
            BrokenStreamError: the stream ended before the answer did.
        """
        if self._finish_reason is None:
            raise BrokenStreamError("the stream ended before the answer did")
        text = "".join(self._pieces)
        content = {"message": {"content": text}} if self._chat else {"text": text}
        choice = {"index": 0, "finish_reason": self._finish_reason, **content}
        return {**self._last, "choices": [choice]}

    def _take(self, value: str) -> None:
        try:
            data = json.loads(value)
            if "error" in data:
                raise BrokenStreamError(f"in mid-stream: {str(data['error'])[:200]}")
            for choice in data.get("choices") or ():
                self._add(choice)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BrokenStreamError(f"not an event of a completion: {value[:80]!r}") from error
        self._last.update({k: data[k] for k in ("usage", "timings") if data.get(k)})

    def _add(self, choice: dict[str, Any]) -> None:
        self._chat = "delta" in choice
        piece = choice["delta"].get("content") if self._chat else choice.get("text")
        if piece:
            self.started = True
            self._pieces.append(piece)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
