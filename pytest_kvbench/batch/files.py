"""Lines into files that a provider takes, and the keys out of them again. Memory stays flat."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from pytest_kvbench.errors import GuardError, UsageError
from pytest_kvbench.files import writing

CHUNK = 256
"""Requests looked up or stored together."""

_PART = ".part"
_ENDLESS = 64
_HEAD = b'{"custom_id": "'
_T = TypeVar("_T")


@dataclass(frozen=True)
class Lane:
    """What can be in one file: requests to one arm's server at one path."""

    server: str
    base_url: str
    url: str

    @property
    def slug(self) -> str:
        """The lane in a form that a file's name can hold."""
        return re.sub(r"[^\w.-]", "-", f"{self.server}-{self.url.split('/')[2]}")


@dataclass(frozen=True)
class Limits:
    """What one file may hold. OpenAI takes 50,000 requests and 200 MB."""

    requests: int = 50_000
    bytes: int = 200_000_000


OPENAI = Limits()


@dataclass(frozen=True)
class Written:
    """A finished file of requests."""

    path: Path
    lane: Lane
    requests: int
    bytes: int
    sha256: str


@dataclass
class _Open:
    path: Path
    stream: IO[bytes]
    requests: int = 0
    bytes: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)


class Splitter:
    """Writes each line to a file of its lane, and begins a new one where that is full.

    Use as a context manager: a file gets its name when it is whole; what is not, is taken away.

    Args:
        place: the path of the next file of a lane.
        on_file: called with every finished file.
        limits: of a file.
    """

    def __init__(
        self,
        place: Callable[[Lane], Path],
        on_file: Callable[[Written], None],
        limits: Limits = OPENAI,
    ) -> None:
        self._place = place
        self._on_file = on_file
        self._limits = limits
        self._open: dict[Lane, _Open] = {}

    def __enter__(self) -> Splitter:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        for lane in list(self._open):
            if kind is None:
                self._finish(lane)
            else:
                file = self._open.pop(lane)
                file.stream.close()
                part_of(file.path).unlink(missing_ok=True)

    def add(self, lane: Lane, line: bytes) -> None:
        """Write a line.

        Raises:
            UsageError: it is larger than a file may be.
            StoreError: it cannot be written.
        """
        if len(line) > self._limits.bytes:
            raise UsageError(
                f"a request of {len(line):,} bytes is larger than a batch file may be",
                f"at most {self._limits.bytes:,} bytes; ask shorter prompts",
            )
        file = self._open.get(lane)
        if file is not None and self._is_full(file, len(line)):
            self._finish(lane)
            file = None
        if file is None:
            file = self._open[lane] = self._begin(lane)
        with writing(file.path):
            file.stream.write(line)
        file.sha256.update(line)
        file.requests += 1
        file.bytes += len(line)

    def _is_full(self, file: _Open, more: int) -> bool:
        return file.requests >= self._limits.requests or file.bytes + more > self._limits.bytes

    def _begin(self, lane: Lane) -> _Open:
        path = self._place(lane)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return _Open(path, part_of(path).open("wb"))

    def _finish(self, lane: Lane) -> None:
        file = self._open.pop(lane)
        with writing(file.path):
            file.stream.close()
            part_of(file.path).replace(file.path)
        self._on_file(Written(file.path, lane, file.requests, file.bytes, file.sha256.hexdigest()))


def chunks(some: Iterable[_T]) -> Iterator[list[_T]]:
    """Lists of at most `CHUNK` of them, in order."""
    left = iter(some)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def clipped(pieces: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """Pieces of a file of lines, of each line no more than `longest` bytes and one.

    Raises:
        ValueError: a line has so much more that it may never end.
    """
    left, dropped = longest + 1, 0
    for piece in pieces:
        *ended, begun = piece.split(b"\n")
        for part in ended:
            yield part[:left] + b"\n"
            left, dropped = longest + 1, 0
        yield begun[:left]
        dropped += max(0, len(begun) - left)
        left = max(0, left - len(begun))
        if dropped > _ENDLESS * longest:
            raise ValueError("a line of the file does not end")


def part_of(path: Path) -> Path:
    """Where a file is while it is not whole."""
    return path.with_name(path.name + _PART)


def _key_of(line: bytes) -> str:
    """The key in a line of ours, without reading the prompt."""
    return line[len(_HEAD) : line.index(b'"', len(_HEAD))].decode()


def keys_of(path: Path, sha256: str) -> Iterator[list[str]]:
    """The keys in a file of ours, some at a time.

    Raises:
        GuardError: after the last of them, where the file is not the one that was written.
    """
    digest = hashlib.sha256()

    def lines(stream: Iterable[bytes]) -> Iterator[bytes]:
        for line in stream:
            digest.update(line)
            yield line

    try:
        with path.open("rb") as stream:
            for chunk in chunks(lines(stream)):
                yield [_key_of(line) for line in chunk]
    except (OSError, ValueError):  # gone; or not our lines
        digest.update(b"altered")
    if digest.hexdigest() != sha256:
        raise GuardError(
            f"{path}: is not the file that was written: gone, or its sha256 differs",
            "restore it; or give its requests up and ask them anew: kvbench batch cancel GROUP",
        )
