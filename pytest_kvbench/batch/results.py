"""Result files into the store: joined by key, some at a time, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_kvbench.batch.files import chunks
from pytest_kvbench.batch.lines import Result, key_in, read
from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import open_file
from pytest_kvbench.records import Answer, Failure
from pytest_kvbench.store.store import Store
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.bounded import MIB


@dataclass(frozen=True)
class Taken:
    """What came of some result files: requests answered and failed, and lines of nobody's."""

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
    paths: Iterable[Path], longest: int, *, key: str | None = None, given: bool = False
) -> Iterator[Result]:
    """Every line of result files; one that cannot be read is a failure of whom it names.

    Args:
        paths: the files.
        longest: bytes of a line that are read.
        key: what was sent to the server, which may repeat it.
        given: by hand, and perhaps another file, or half of one: it is refused for a line that
            names nobody, or does not end. Of a server's files such a line is nobody's.

    Raises:
        UsageError: a line is none, by its number; or a file cannot be read.
    """
    for path in paths:
        try:
            with open_file(path, pipe=True) as stream:
                for number, line in enumerate(_lines(stream, longest), start=1):
                    if line.strip():
                        yield _read(path, number, line, longest, key, given)
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


def _read(
    path: Path, number: int, line: bytes, longest: int, sent: str | None, given: bool
) -> Result:
    try:
        if len(line) > longest:
            raise ValueError(f"it is longer than {longest / MIB:,.4g} MB: see engine.max_reply_mb")
        return read(line, sent)
    except ValueError as error:
        whole = line.endswith(b"\n") or len(line) > longest
        if (key := key_in(line)) and (whole or not given):
            told = f"the line of its result cannot be read: {error}"
            return Result(key, Failure(key, "ENGINE_ERROR", told))
        if not given:
            return Result("", Failure("", "ENGINE_ERROR", str(error)))
        raise UsageError(
            f"{path}:{number}: is no line of a batch's results: {sound.said(str(error))}",
            "valid: JSON lines with custom_id and response or error; fetch the file again",
        ) from None


def take(
    store: Store,
    found: Iterable[Result],
    known: Callable[[Sequence[str]], set[str]],
    on_results: Callable[[Sequence[Result]], None] = lambda _: None,
) -> Taken:
    """Store results.

    Args:
        store: where to.
        found: the results, in any order, any of them twice.
        known: which of some keys were asked.
        on_results: told of what was stored.

    A failure never follows an answer, and an answer that is there stays.
    """
    taken = Taken()
    for chunk in chunks(found):
        mine = known([result.key for result in chunk])
        ours = [result for result in chunk if result.key in mine]
        answers = {r.key: r.outcome for r in reversed(ours) if isinstance(r.outcome, Answer)}
        store.save_answers(list(answers.values()))
        failed = save_failures(store, [r.outcome for r in ours if isinstance(r.outcome, Failure)])
        on_results(ours)
        taken += Taken(len(answers), failed, len(chunk) - len(ours))
    return taken


def save_failures(store: Store, failures: Sequence[Failure]) -> int:
    """Store failures of what has no answer; how many."""
    answered = store.answered([failure.key for failure in failures])
    left = {f.key: f for f in failures if f.key not in answered}
    store.save_failures(left.values())
    return len(left)
