"""Tokens to text as they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer  # type: ignore[import-untyped]  # upstream ships no types
from tokenizers.decoders import DecodeStream  # type: ignore[import-untyped]  # as above


class _Seeker:
    """Looks for one stop string in a text that comes bit by bit (Knuth, Morris and Pratt).

    Every character is looked at once, however long the string and the text are.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._borders = _borders(stop)
        self.begun = 0

    def find(self, text: str) -> int | None:
        """How many characters of `text`, the next bit, end with the whole string, if any do."""
        for count, character in enumerate(text, 1):
            self.begun = _longer(self._stop, self._borders, self.begun, character)
            if self.begun == len(self._stop):
                return count
        return None


def _borders(stop: str) -> list[int]:
    """Per beginning of `stop`: how long its longest proper end is that `stop` begins with."""
    borders = [0]
    for character in stop[1:]:
        borders.append(_longer(stop, borders, borders[-1], character))
    return borders


def _longer(stop: str, borders: Sequence[int], begun: int, character: str) -> int:
    """How much of `stop` a text ends with that ended with `begun` of it, and one character."""
    while begun and stop[begun] != character:
        begun = borders[begun - 1]
    return begun + (stop[begun] == character)


class TextStream:
    """The text of one reply while it grows."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [_Seeker(stop) for stop in stops if stop]
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._text = ""
        self._sent = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; returns what may be shown now (often a little behind, see `_held_back`)."""
        self._ids.append(token)
        self._add(self._stream.step(self._tokenizer, token) or "")
        return self._release(len(self._text) - (0 if self.stopped else self._held_back()))

    def finish(self) -> str:
        """The rest: what was held back, and a last character whose bytes are incomplete."""
        if not self.stopped:
            self._text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return self._release(len(self._text))

    def _add(self, text: str) -> None:
        ends = [(end, stop) for stop in self._stops if (end := stop.find(text)) is not None]
        begins = [len(self._text) + end - stop.begun for end, stop in ends]
        self._text += text
        if begins:
            self._text = self._text[: min(begins)]
            self.stopped = True

    def _held_back(self) -> int:
        """Length of the longest end of the text that may be the beginning of a stop string."""
        return max((stop.begun for stop in self._stops), default=0)

    def _release(self, end: int) -> str:
        piece = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece
