"""Calls to a server side by side, and a word to the user when they take long."""

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
"""So long nothing is said at first, and between two words."""


def say_nothing(line: str) -> None:
    """Tells nobody."""


class Telling:
    """Says how far a count is, once it takes long.

    Args:
        say: told the line.
        what: is going on.
    """

    def __init__(self, say: Say, what: str) -> None:
        self._say, self._what = say, what
        self._next = time.monotonic() + EVERY_S
        self._done, self._wanted, self._said = 0, 0, False

    def begin(self, wanted: int) -> None:
        """So many more are wanted."""
        self._wanted += wanted

    def come(self, done: int) -> None:
        """So many more have come, or some time has passed."""
        self._done += done
        if time.monotonic() >= self._next:
            self._next, self._said = time.monotonic() + EVERY_S, True
            self._say(f"{self._what}: {self._done:,} of {self._wanted:,} texts")

    def end(self) -> None:
        """Take the line away, if there is one."""
        if self._said:
            self._said = False
            self._say("")


def together(
    work: Callable[[Item], Result], items: Sequence[Item], places: int, telling: Telling
) -> list[Result]:
    """The result of `work` for every item, in order; `places` of them at work at once.

    The threads are nobody's concern: neither an interrupt nor the end of the process waits for
    them.

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

    telling.begin(len(items))
    for _ in range(min(places, len(items))):
        threading.Thread(target=run, daemon=True).start()
    try:
        return _gathered(done, len(items), telling)
    finally:
        todo.clear()
        telling.end()


def _gathered(
    done: queue.SimpleQueue[tuple[int, Result | Exception]], wanted: int, telling: Telling
) -> list[Result]:
    results: dict[int, Result] = {}
    while len(results) < wanted:
        try:
            number, result = done.get(timeout=EVERY_S)
        except queue.Empty:
            telling.come(0)
            continue
        if isinstance(result, Exception):
            raise result
        results[number] = result
        telling.come(1)
    return [results[number] for number in range(wanted)]
