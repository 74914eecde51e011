"""What is kept of a text that is not to be kept."""

from __future__ import annotations

import hashlib
import re

_MARK = "sha256:"
_STATUS = re.compile(r"HTTP \d{3}: ")
_OURS = re.compile(
    r"not asked: the server (refused \d+ requests one after the other"
    r"|failed \d+ requests alike and answered none)"
    r"|the reply is (not JSON|a JSON (list|str|int|float|bool|NoneType))"
    r"|its server compares no distributions"
)
"""Messages in which no word is a server's."""


def hashed(text: str) -> str:
    """Its sha256; nothing stays nothing, and what is hashed already stays as it is."""
    if not text or text.startswith(_MARK):
        return text
    return f"{_MARK}{hashlib.sha256(text.encode(errors='replace')).hexdigest()}"


def hashed_message(message: str) -> str:
    """An error without the server's words, which may repeat the prompt; its status stays."""
    if _OURS.fullmatch(message):
        return message
    status = _STATUS.match(message)
    kept = status[0] if status else ""
    return f"{kept}{hashed(message.removeprefix(kept))}"
