"""How far something is, as one line: what it says, and where the command line shows it.

Pytest writes to the terminal too; there `plugin.progress` finds the line its place.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from pytest_kvbench.report import text

NO_VERDICTS: Mapping[str, int] = MappingProxyType({})


class Progress:
    """Answers that come in, counted from the first line on: earlier ones tell nothing of speed."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def line(
        self,
        done: int,
        total: int,
        failed: int = 0,
        verdicts: Mapping[str, int] = NO_VERDICTS,
        *,
        width: int = 80,
    ) -> str:
        """The counts as `progress_line` writes them, with the speed since the first line."""
        began, before = self._first = self._first or (time.monotonic(), done)
        seconds = time.monotonic() - began
        return progress_line(
            done, total, seconds, verdicts, reused=before, failed=failed, width=width
        )


class StatusLine:
    """One line on standard error: on a terminal each replaces the one before.

    Args:
        every_s: seconds between two lines elsewhere, where lines stay; None writes none there.
        prefix: what a line begins with elsewhere.
    """

    def __init__(self, every_s: float | None = None, prefix: str = "") -> None:
        self._every_s = every_s
        self._prefix = prefix
        self._next = 0.0
        self._last = ""

    @property
    def is_redrawn(self) -> bool:
        """Whether standard error is a terminal."""
        return sys.stderr.isatty()

    @property
    def width(self) -> int:
        """Characters that fit; elsewhere than on a terminal many do."""
        return shutil.get_terminal_size().columns - 1 if self.is_redrawn else 500

    def show(self, line: str) -> None:
        """Show a line that is new and, elsewhere than on a terminal, due; "" takes it away."""
        if self.is_redrawn:
            self._write(f"\r\x1b[2K{line}")
        elif self._is_due(line):
            self._write(f"{self._prefix}{line}\n")
            self._last, self._next = line, time.monotonic() + (self._every_s or 0.0)

    def _is_due(self, line: str) -> bool:
        if self._every_s is None or line in ("", self._last):
            return False
        return time.monotonic() >= self._next

    def _write(self, piece: str) -> None:
        sys.stderr.write(piece)
        sys.stderr.flush()


@contextmanager
def counting(total: int) -> Iterator[Callable[[int], None]]:
    """A line on standard error while answers come in; none where that is no terminal.

    Args:
        total: answers wanted.

    Returns:
        What is to be called with the number of answers that have come since the last call.
    """
    status, progress, done = StatusLine(), Progress(), 0
    progress.line(done, total)

    def come(more: int) -> None:
        nonlocal done
        done += more
        status.show(progress.line(done, total, width=status.width))

    try:
        yield come
    finally:
        status.show("")


def progress_line(
    done: int,
    total: int,
    seconds: float,
    verdicts: Mapping[str, int],
    *,
    reused: int = 0,
    failed: int = 0,
    width: int = 80,
) -> str:
    """`120/300 answers, 3.2/s, 56 s left, 4 holds, 1 breaks`, as much of it as fits.

    Args:
        done: answers that are there, `reused` and `failed` ones included.
        total: answers wanted.
        seconds: since the first request was sent.
        verdicts: cells judged so far, by verdict.
        reused: of `done`, those that were stored before; they say nothing about speed.
        failed: of `done`, requests without a reply.
        width: of the terminal.
    """
    made = done - reused
    parts = [f"{done:,}/{total:,} answers"]
    if made > 0 and seconds > 0:
        rate = made / seconds
        parts += [_rate(rate)]
        parts += [f"{text.duration((total - done) / rate)} left"] if done < total else []
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"{n:,} {verdict}" for verdict in text.SYMBOLS if (n := verdicts.get(verdict, 0))]
    while len(parts) > 1 and len(", ".join(parts)) > width:
        parts.pop()
    return text.fit(", ".join(parts), width)


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:.1f}/s"
    return f"{60 * per_second:.1f}/min"
