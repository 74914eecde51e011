"""Where in a text its tokens lie, from the pieces that a server's `/tokenize` gives with them.

Servers write pieces in three ways; the one that gives the text back is the right one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from pytest_kvbench.tasks.cuts import Span

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_ALPHABET = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + i): byte for i, byte in enumerate(_OTHERS)
}
"""How byte-level vocabularies write bytes (GPT-2's encoder.py)."""


def spans(pieces: Sequence[Any], text: str) -> list[Span] | None:
    """The characters of every token; one that is cut in two belongs to both of its tokens.

    None where the pieces are not those of the text: it was normalised, or they are written in a
    way not known here.
    """
    wanted = text.encode(errors="replace")  # as it is sent
    for read in (_plain, _byte_level, _sentence_piece):
        parts = _read(read, pieces, wanted)
        if parts is not None:
            return _spans(parts, wanted)
    return None


def _read(read: Callable[[Any], bytes], pieces: Sequence[Any], text: bytes) -> list[bytes] | None:
    try:
        parts = [read(piece) for piece in pieces]
    except (ValueError, TypeError, AttributeError):
        return None
    joined = b"".join(parts)
    if joined == b" " + text:  # SentencePiece puts a blank before every text
        parts[0] = parts[0][1:]
        return parts
    return parts if joined == text else None


def _spans(parts: Sequence[bytes], text: bytes) -> list[Span]:
    # Which character a byte is in: the first byte of each is no continuation (10xxxxxx).
    starts = itertools.accumulate(byte & 0xC0 != 0x80 for byte in text)
    inside = [number - 1 for number in starts]
    bounds = [0, *itertools.accumulate(map(len, parts))]
    return [_span(inside, low, high) for low, high in itertools.pairwise(bounds)]


def _span(inside: Sequence[int], low: int, high: int) -> Span:
    if high == 0:
        return 0, 0
    # A token without bytes of its own is a further one of the character before.
    return inside[min(low, high - 1)], inside[high - 1] + 1


def _plain(piece: Any) -> bytes:
    """llama.cpp's: text, or a list of bytes where it is none."""
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _byte_level(piece: str) -> bytes:
    """vLLM's for GPT-2's kind of vocabulary: a character for each byte; special tokens as text."""
    return b"".join(bytes([_ALPHABET[c]]) if c in _ALPHABET else c.encode() for c in piece)


def _sentence_piece(piece: str) -> bytes:
    """vLLM's for Llama 2's kind: ▁ for a blank, and bytes spelt out."""
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
