"""`control.jsonl`: one answer a line, each with its own sha256, so that a flipped bit is noticed.

A line is canonical JSON: `{"answer": {...}, "sha256": digest of the answer}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import StoreError
from pytest_kvbench.files import replace_bytes, writing
from pytest_kvbench.records import Answer, canonical, digest

FILE = "control.jsonl"


def line_of(answer: Answer) -> bytes:
    """An answer as a line, newline included."""
    body = canonical(_plain(answer))
    return b'{"answer":%b,"sha256":"%b"}\n' % (body, hashlib.sha256(body).hexdigest().encode())


def _plain(answer: Answer) -> dict[str, Any]:
    """Nothing is said of a divergence where none was asked."""
    compared = answer.divergence and answer.divergence.to_json()
    shown = {**vars(answer), "telemetry": vars(answer.telemetry), "divergence": compared}
    return {name: value for name, value in shown.items() if value is not None}


@dataclass(frozen=True)
class Content:
    """What a file holds that can be trusted.

    `lines` are the sound ones, newlines included, also those whose answer this version cannot
    read; `damaged` counts whole lines that are not sound; `torn` is a last line without an end,
    left by a death in mid-write. `bytes` and `sha256` are of the file as it is.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    lines: tuple[bytes, ...] = ()
    damaged: int = 0
    torn: bool = False
    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()

    @property
    def sound(self) -> bool:
        """Whether every byte is part of a sound line."""
        return not self.damaged and not self.torn


def read_content(path: Path) -> Content:
    """Read and verify a file; one that is missing has no content.

    Raises:
        StoreError: it is there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Content()
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read: {error.strerror}", "make it readable, or remove it"
        ) from error
    *whole, rest = data.split(b"\n")
    bodies = [(line + b"\n", _verified(line)) for line in whole]
    answers: dict[str, Answer] = {}
    for _, body in bodies:
        if body is not None and (answer := _answer(body)) is not None:
            answers.setdefault(answer.key, answer)
    return Content(
        answers=answers,
        lines=tuple(line for line, body in bodies if body is not None),
        damaged=sum(body is None for _, body in bodies),
        torn=bool(rest),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _verified(line: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
        body = data["answer"]
        return body if isinstance(body, dict) and digest(body) == data["sha256"] else None
    except (ValueError, TypeError, KeyError):
        return None


def _answer(body: dict[str, Any]) -> Answer | None:
    try:
        return Answer.from_json(body)
    except (TypeError, KeyError, AttributeError, ValueError):
        return None  # written by another version: not ours to use, nor to remove


class ControlFile:
    """A file held by this process alone, read once and then followed as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read_content(path)
        self.answers = self.content.answers
        self._lines = [*self.content.lines]
        self._bytes = self.content.bytes
        self._hash = hashlib.sha256()
        if self.content.sound:
            self._hash.update(b"".join(self._lines))
        else:
            self._rewrite()

    @property
    def bytes(self) -> int:
        """The file's size."""
        return self._bytes

    @property
    def sha256(self) -> str:
        """The file's hash, from what was written: it is not read again."""
        return self._hash.hexdigest()

    def add(self, answers: Iterable[Answer]) -> None:
        """Append answers, whole lines, at once.

        Raises:
            StoreError: they cannot be written; what was there stays.
        """
        new = list(answers)
        lines = [line_of(answer) for answer in new]
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                untouched = file.tell() == self._bytes
                if untouched:
                    file.write(b"".join(lines))
        self._lines += lines
        self.answers.update((answer.key, answer) for answer in new)
        if untouched:
            self._hash.update(b"".join(lines))
            self._bytes += sum(map(len, lines))
        else:  # emptied under our hands by a `--cache-clear`, or cut short by a full disk
            self._rewrite()

    def _rewrite(self) -> None:
        data = b"".join(self._lines)
        replace_bytes(self.path, data)
        self._hash = hashlib.sha256(data)
        self._bytes = len(data)
