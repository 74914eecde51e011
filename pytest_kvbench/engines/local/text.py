"""Tokens to text as they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer  # type: ignore[import-untyped]  # upstream ships no types
from tokenizers.decoders import DecodeStream  # type: ignore[import-untyped]  # as above


class TextStream:
    """The text of one reply while it grows."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._text = ""
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns what may be shown now (often a little behind, see `_held_back`)."""
        self._ids.append(token)
        self._text += self._stream.step(self._tokenizer, token) or ""
        self._cut_at_stop()
        return self._release(len(self._text) - (0 if self.stopped else self._held_back()))

    def finish(self) -> str:
        """The rest: what was held back, and a last character whose bytes are incomplete."""
        if not self.stopped:
            self._text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return self._release(len(self._text))

    def _cut_at_stop(self) -> None:
        # A stop string may have begun in any text not yet shown.
        found = [at for stop in self._stops if (at := self._text.find(stop, self._sent)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True

    def _held_back(self) -> int:
        """Length of the longest end of the text that may be the beginning of a stop string."""
        ends = (
            length
            for stop in self._stops
            for length in range(1, len(stop))
            if self._text.endswith(stop[:length])
        )
        return max(ends, default=0)

    def _release(self, end: int) -> str:
        piece = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece
