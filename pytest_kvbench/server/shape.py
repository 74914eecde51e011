"""The shape in which a server decodes, and the memory that it takes: arithmetic, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvbench.errors import UsageError

CHUNK = 2048
"""Tokens of a prompt in one pass, where rows decode between them: about as long as four steps."""

_SHAPE = re.compile(r"(\d{1,4})x(\d{1,9})(?:/(\d{1,9}))?")
_LEAST = 16


@dataclass(frozen=True)
class Shape:
    """So many slots of so many tokens each, and a prompt in passes of `chunk` tokens.

    It is part of what identifies a server: answers may depend on it, and on nothing else that is
    asked at the same time.
    """

    slots: int
    capacity: int
    chunk: int = CHUNK

    def __str__(self) -> str:
        return f"{self.slots}x{self.capacity}/{self.chunk}"

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its reply: the last place of a slot is nobody's."""
        return self.capacity - 1


def parsed(text: str) -> Shape:
    """The shape `SLOTSxCAPACITY` or `SLOTSxCAPACITY/CHUNK`.

    Raises:
        UsageError: it is none.
    """
    found = _SHAPE.fullmatch(text)
    numbers = [int(number) for number in found.groups(str(CHUNK))] if found else [0, 0, 0]
    if not numbers[0] or numbers[1] < _LEAST or numbers[2] < _LEAST:
        raise UsageError(
            f"--slots {text}: it is no shape.",
            f"Valid: auto, none, or as in 8x16384 (slots x tokens each, of at least {_LEAST}) or "
            f"8x16384/{CHUNK} (a prompt in passes of so many).",
        )
    return Shape(*numbers)
