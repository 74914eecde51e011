"""`control.jsonl`: one answer a line, each with its own sha256, so that a flipped bit is noticed.

A line is canonical JSON: `{"answer": {...}, "sha256": digest of the answer}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_kvbench.errors import StoreError
from pytest_kvbench.files import replace_bytes, writing
from pytest_kvbench.records import Answer, Telemetry, canonical, digest
from pytest_kvbench.wire.sound import Fields

FILE = "control.jsonl"


def line_of(answer: Answer) -> bytes:
    """An answer as a line, newline included."""
    body = canonical(_plain(answer))
    return b'{"answer":%b,"sha256":"%b"}\n' % (body, hashlib.sha256(body).hexdigest().encode())


def _plain(answer: Answer) -> Fields:
    """Nothing is said of a divergence where none was asked."""
    compared = answer.divergence and answer.divergence.to_json()
    shown = {**vars(answer), "telemetry": vars(answer.telemetry), "divergence": compared}
    return {name: value for name, value in shown.items() if value is not None}


class Answers(Mapping[str, Answer]):
    """The answers of lines, by the key of their request: each is made when it is taken."""

    def __init__(self) -> None:
        self._lines: dict[str, bytes] = {}

    def __getitem__(self, key: str) -> Answer:
        return Answer.from_json(json.loads(self._lines[key])["answer"])

    def __contains__(self, key: object) -> bool:
        return key in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def note(self, key: str, line: bytes) -> None:
        """Add the line of an answer; the first of a key stays."""
        self._lines.setdefault(key, line)


@dataclass(frozen=True)
class Content:
    """What a file holds that can be trusted.

    `lines` are the sound ones, newlines included, also those whose answer this version cannot
    read; `damaged` counts whole lines that are not sound; `torn` is a last line without an end,
    left by a death in mid-write. `bytes` and `sha256` are of the file as it is.
    """

    answers: Answers = field(default_factory=Answers)
    lines: tuple[bytes, ...] = ()
    damaged: int = 0
    torn: bool = False
    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()

    @property
    def sound(self) -> bool:
        """Whether every byte is part of a sound line."""
        return not self.damaged and not self.torn


def read_content(path: Path, registered: str = "") -> Content:
    """Read and verify a file; one that is missing has no content.

    Args:
        path: the file.
        registered: its sha256 as whoever completed it noted it; where it is that, no line can be
            another than it was, and none is verified by itself.

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
    sha256 = hashlib.sha256(data).hexdigest()
    body_of = _body if sha256 == registered else _verified
    answers, lines = Answers(), list[bytes]()
    for line in whole:
        if (body := body_of(line)) is not None:
            lines.append(line + b"\n")
            if _is_readable(body):
                answers.note(str(body["key"]), lines[-1])
    return Content(answers, tuple(lines), len(whole) - len(lines), bool(rest), len(data), sha256)


def _verified(line: bytes) -> Fields | None:
    try:
        data = json.loads(line)
        body = data["answer"]
        return body if isinstance(body, dict) and digest(body) == data["sha256"] else None
    except (ValueError, TypeError, KeyError):
        return None


def _body(line: bytes) -> Fields | None:
    try:
        body = json.loads(line)["answer"]
        return body if isinstance(body, dict) else None
    except (ValueError, TypeError, KeyError):
        return None


_TEXTS = ("key", "text", "finish_reason", "reasoning")
_FIELDS = frozenset({*_TEXTS, "telemetry"})
_COSTS = frozenset(Telemetry.__dataclass_fields__)


def _is_readable(body: Fields) -> bool:
    """Whether it is an answer of this version; another's is not ours to use, nor to remove."""
    costs = body.get("telemetry")
    if body.keys() == _FIELDS and isinstance(costs, dict) and costs.keys() <= _COSTS:
        return "latency_s" in costs and all(isinstance(body[name], str) for name in _TEXTS)
    try:
        return bool(Answer.from_json(body).key == body["key"])
    except (TypeError, KeyError, AttributeError, ValueError):
        return False


class ControlFile:
    """A file held by this process alone, read once and then followed as it grows.

    `registered`: see `read_content`.
    """

    def __init__(self, path: Path, registered: str = "") -> None:
        self.path = path
        self.content = read_content(path, registered)
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
        for answer, line in zip(new, lines, strict=True):
            self.answers.note(answer.key, line)
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
