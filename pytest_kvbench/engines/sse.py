"""A streamed completion, put together again: server-sent events in, one reply out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_kvbench.engines.completion import (
    NotACompletionError,
    fault_in,
    reasoning_of,
    text_of,
)
from pytest_kvbench.wire import bounded, sound
from pytest_kvbench.wire.sound import Fields

_BOM = "\ufeff"


class BrokenStreamError(Exception):
    """A stream that ended early, reports an error, or holds what is not a completion.

    `passes`: it is worth asking again.
    """

    def __init__(self, message: str, *, passes: bool = True) -> None:
        super().__init__(message)
        self.passes = passes


class Lines:
    """The lines of a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[str]:
        """Take a piece; the lines that it ends."""
        first, *others = piece.split(b"\n")
        self._begun.append(first)
        for line in others:
            yield self._line()
            self._begun = [line]

    def end(self) -> str:
        """What is left when nothing more comes."""
        line, self._begun = self._line(), []
        return line

    def _line(self) -> str:
        return b"".join(self._begun).decode(errors="replace")


class Assembly:
    """One streamed completion, chat or plain, of one choice.

    `started` turns true with the first piece of text: the time to the first token.
    """

    def __init__(self) -> None:
        self.started = False
        self._lines = Lines()
        self._first = True
        self._done = False
        self._index: object = None
        self._chat = False
        self._pieces: list[str] = []
        self._refusal: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Fields] = []
        self._finish_reason: object = None
        self._last: dict[str, object] = {}

    def feed(self, piece: bytes) -> None:
        """Take a piece of the stream.

        Raises:
            BrokenStreamError: it is not an event of a completion, or it reports an error.
        """
        for line in self._lines.feed(piece):
            self._read(line)

    def reply(self) -> Fields:
        """The completion as an unstreamed reply would have it, once nothing more comes.

        Raises:
            BrokenStreamError: the stream ended before the answer did.
        """
        self._read(self._lines.end())
        if self._finish_reason is None:
            raise BrokenStreamError("the stream ended before the answer did")
        text = "".join(self._pieces or self._refusal)
        apart = {"reasoning_content": "".join(self._reasoning), "tool_calls": self._calls}
        content = {"message": {"content": text, **apart}} if self._chat else {"text": text}
        choice = {"index": 0, "finish_reason": self._finish_reason, **content}
        return {**self._last, "choices": [choice]}

    def _read(self, line: str) -> None:
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        for event in line.split("\r"):  # ends lines too, alone or before the newline
            name, _, value = event.partition(":")
            if name == "error":  # llama.cpp names it so
                raise BrokenStreamError(f"in mid-stream: {value.strip()}")
            if name == "data" and value.strip() == "[DONE]":
                self._done = True
            elif name == "data" and value.strip() and not self._done:
                self._take(value)

    def _take(self, value: str) -> None:
        try:
            data = sound.decoded(value)
            if (fault := fault_in(data, whole=False)) is not None:
                raise BrokenStreamError(
                    f"in mid-stream: {fault.message}", passes=fault.passes is not False
                )
            for choice in data.get("choices") or ():
                self._add(choice)
        except (ValueError, TypeError, AttributeError, NotACompletionError) as error:
            raise BrokenStreamError(
                f"not an event of a completion: {sound.message(value, bounded.ERROR)}"
            ) from error
        self._last.update({k: data[k] for k in ("usage", "timings") if data.get(k)})

    def _add(self, choice: Fields) -> None:
        if self._index is None:
            self._index = choice.get("index")
        if choice.get("index", self._index) != self._index:
            return  # another one, where several were asked for
        chat = "delta" in choice or "message" in choice  # a whole one, in a stream of one event
        message = choice.get("delta", choice.get("message"))
        delta = (message if chat else {"content": choice.get("text")}) or {}
        if not isinstance(delta, Mapping):
            raise TypeError(type(delta).__name__)
        self._chat |= chat
        for pieces, field in ((self._pieces, "content"), (self._refusal, "refusal")):
            if piece := text_of(delta.get(field)):
                self.started = True
                pieces.append(piece)
        self._reasoning.append(reasoning_of(delta))
        self._calls += sound.objects(delta.get("tool_calls"))
        reason = choice.get("finish_reason")
        self._finish_reason = self._finish_reason if reason is None else reason
