"""Calls to a server side by side, and a line for the user when they take long."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Say = Callable[[str], None]
"""Shows a line in place of the one before; an empty one takes it away."""

EVERY_S = 1.0
"""Seconds until the first line, and between two lines."""


def say_nothing(line: str) -> None:
    """Show nothing: for runs that nobody watches."""


class Progress:
    """Shows how far a count is, once it takes long.

    Args:
        say: shows the line.
        activity: what is going on, in words.
    """

    def __init__(self, say: Say, activity: str) -> None:
        self._say, self._activity = say, activity
        self._next = time.monotonic() + EVERY_S
        self._done, self._wanted, self._shown = 0, 0, False

    def begin(self, wanted: int) -> None:
        """Count `wanted` more as asked for."""
        self._wanted += wanted

    def come(self, done: int) -> None:
        """Count `done` more as answered; called with 0 when some time has passed."""
        self._done += done
        if time.monotonic() >= self._next:
            self._next, self._shown = time.monotonic() + EVERY_S, True
            self._say(f"{self._activity}: {self._done:,} of {self._wanted:,} texts")

    def end(self) -> None:
        """Take the line away, if there is one."""
        if self._shown:
            self._shown = False
            self._say("")


def together(
    work: Callable[[Item], Result], items: Sequence[Item], places: int, progress: Progress
) -> list[Result]:
    """The result of `work` for every item, in order; `places` of them at work at once.

    The threads are daemons: neither an interrupt nor the end of the process waits for them.

    Raises:
        Exception: the first that `work` raised; nothing more is begun then.
    """
    todo = deque(enumerate(items))
    done: queue.SimpleQueue[tuple[int, Result | Exception]] = queue.SimpleQueue()

    def run() -> None:
        while True:
            try:
                number, item = todo.popleft()
            except IndexError:
                return
            try:
                done.put((number, work(item)))
            except Exception as error:  # raised where the result is taken
                todo.clear()
                done.put((number, error))

    progress.begin(len(items))
    for _ in range(min(places, len(items))):
        threading.Thread(target=run, daemon=True).start()
    try:
        return _gathered(done, len(items), progress)
    finally:
        todo.clear()
        progress.end()


def _gathered(
    done: queue.SimpleQueue[tuple[int, Result | Exception]], wanted: int, progress: Progress
) -> list[Result]:
    results: dict[int, Result] = {}
    while len(results) < wanted:
        try:
            number, result = done.get(timeout=EVERY_S)
        except queue.Empty:
            progress.come(0)
            continue
        if isinstance(result, Exception):
            raise result
        results[number] = result
        progress.come(1)
    return [results[number] for number in range(wanted)]
