"""Result files into the store: joined by key, some at a time, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench.batch.files import chunks
from pytest_kvbench.batch.lines import Result, read
from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Answer, Failure
from pytest_kvbench.store import Store


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


def results(paths: Iterable[Path]) -> Iterator[Result]:
    """Every line of result files.

    Raises:
        UsageError: a line is none, by its number.
    """
    for path in paths:
        try:
            with path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield _read(path, number, line)
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be read: {error.strerror or error}", "name a file of results"
            ) from None


def _read(path: Path, number: int, line: bytes) -> Result:
    try:
        return read(line)
    except ValueError as error:
        raise UsageError(
            f"{path}:{number}: is no line of a batch's results: {error}",
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
