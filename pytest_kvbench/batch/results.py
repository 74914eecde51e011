"""Result files into the store: joined by key, some at a time, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_kvbench.batch.files import chunks
from pytest_kvbench.batch.lines import Result, key_in, read
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.reading import open_file
from pytest_kvbench.records import Answer, Failure
from pytest_kvbench.store.store import Store
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.bounded import MIB


@dataclass(frozen=True)
class Taken:
    """What came of some result files: requests answered and failed, and lines of no request."""

    answered: int = 0
    failed: int = 0
    unknown: int = 0

    def __add__(self, other: Taken) -> Taken:
        return Taken(
            self.answered + other.answered,
            self.failed + other.failed,
            self.unknown + other.unknown,
        )


def results(
    paths: Iterable[Path], engine: EngineSettings, *, key: str | None = None, given: bool = False
) -> Iterator[Result]:
    """Every line of result files; one that cannot be read is a failure of the request it names.

    Args:
        paths: the files.
        engine: what answered; a line longer than its `max_reply_mb` is not read.
        key: the API key that was sent to the server, which may repeat it.
        given: by hand, and perhaps another file, or half of one: it is refused for a line that
            names no request, or does not end. Of a server's files such a line has the key "".

    Raises:
        UsageError: a line is no result, by its number; or a file cannot be read.
    """
    reader = _Reader(engine, key, given)
    for path in paths:
        try:
            with open_file(path, pipe=True) as stream:
                for number, line in enumerate(_lines(stream, reader.longest), start=1):
                    if line.strip():
                        yield reader.read(path, number, line)
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be read: {error.strerror or error}", "name a file of results"
            ) from None


def _lines(stream: IO[bytes], longest: int) -> Iterator[bytes]:
    """Lines; of one too long the beginning, without its end."""
    while line := stream.readline(longest + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(longest)
        yield line


@dataclass(frozen=True)
class _Reader:
    """Reads lines of results; see `results`."""

    engine: EngineSettings
    api_key: str | None
    given: bool

    @property
    def longest(self) -> int:
        return self.engine.max_reply_bytes

    def read(self, path: Path, number: int, line: bytes) -> Result:
        try:
            if len(line) > self.longest:
                size = f"{self.longest / MIB:,.4g} MB"
                raise ValueError(f"it is longer than {size}: see engine.max_reply_mb")
            return read(line, kind_of(self.engine), self.api_key)
        except ValueError as error:
            return self._unreadable(f"{path}:{number}", line, error)

    def _unreadable(self, place: str, line: bytes, error: ValueError) -> Result:
        whole = line.endswith(b"\n") or len(line) > self.longest
        if (key := key_in(line)) and (whole or not self.given):
            message = f"the line of its result cannot be read: {error}"
            return Result(key, Failure(key, "ENGINE_ERROR", message))
        if not self.given:
            return Result("", Failure("", "ENGINE_ERROR", str(error)))
        raise UsageError(
            f"{place}: is no line of a batch's results: {sound.message(str(error))}",
            "valid: JSON lines with custom_id and response or error; fetch the file again",
        ) from None


def take(
    store: Store,
    found: Iterable[Result],
    asked: Callable[[Sequence[str]], set[str]],
    on_results: Callable[[Sequence[Result]], None] = lambda _: None,
) -> Taken:
    """Store results.

    Args:
        store: where to.
        found: the results, in any order, any of them twice.
        asked: which of some keys were asked.
        on_results: called with the results that were stored.

    A failure never follows an answer, and an answer that is there stays.
    """
    taken = Taken()
    for chunk in chunks(found):
        keys = asked([result.key for result in chunk])
        ours = [result for result in chunk if result.key in keys]
        answers = {r.key: r.outcome for r in reversed(ours) if isinstance(r.outcome, Answer)}
        store.save_answers(list(answers.values()))
        failed = save_failures(store, [r.outcome for r in ours if isinstance(r.outcome, Failure)])
        on_results(ours)
        taken += Taken(len(answers), failed, len(chunk) - len(ours))
    return taken


def save_failures(store: Store, failures: Sequence[Failure]) -> int:
    """Store failures of the requests that have no answer; how many were stored."""
    answered = store.answered([failure.key for failure in failures])
    left = {f.key: f for f in failures if f.key not in answered}
    store.save_failures(left.values())
    return len(left)
