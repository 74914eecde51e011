"""The contexts of stored examples, read one at a time when a prompt is made of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from pytest_kvbench.store.database import Database

INLINE = 1_000
"""Characters of a context that is read with its example; a longer one stays in the database."""


@dataclass(frozen=True)
class Contexts:
    """Those of one database, opened `again` when the first is wanted; threads take turns."""

    again: Callable[[], Database]
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def of(self, example_id: str) -> str:
        """The context of an example.

        Raises:
            StoreError: the database is gone or damaged.
        """
        with self._turn:
            query = "SELECT context FROM examples WHERE example_id=?"
            rows = self._database.read(query, (example_id,))
        if not rows:
            raise self._database.damaged(f"example {example_id} is gone")
        return str(rows[0][0])

    @cached_property
    def _database(self) -> Database:
        database = self.again()
        weakref.finalize(self, database.close)
        return database
