"""The contexts of stored examples, read a few at a time when prompts are made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

from pytest_kvbench.store.database import Database

INLINE = 1_000
"""Characters of a context that is read with its example; a longer one stays in the database."""
_AT_ONCE = 32
"""Contexts of one reading: prompts are wanted in the order of the selection, mostly."""


@dataclass
class Contexts:
    """Those of one database; it is open only while some are read, and threads take turns.

    Attributes:
        again: opens it.
        ids: of the examples, in the order of the selection.
    """

    again: Callable[[], Database]
    ids: Sequence[str]
    _near: dict[str, str] = field(default_factory=dict, repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def of(self, example_id: str) -> str:
        """The context of an example.

        Raises:
            StoreError: the database is gone or damaged.
        """
        with self._turn:
            if example_id not in self._near:
                self._near = self._read(example_id)
            return self._near[example_id]

    def _read(self, first: str) -> dict[str, str]:
        place = self._places[first]
        some = self.ids[place : place + _AT_ONCE]
        query = "SELECT example_id, context FROM examples WHERE example_id IN"
        with closing(self.again()) as database:
            rows = database.read(f"{query} ({', '.join('?' * len(some))})", some)
            found = {row["example_id"]: str(row["context"]) for row in rows}
            if first not in found:
                raise database.damaged(f"example {first} is gone")
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {example_id: place for place, example_id in enumerate(self.ids)}
