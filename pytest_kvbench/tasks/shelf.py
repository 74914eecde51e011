"""Contexts that wait on disk while examples are chosen: all of them at once may be gigabytes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from pytest_kvbench.records import Example
from pytest_kvbench.selection import ApartExample

_LONG = 1_000  # characters from which on a context is put away


@dataclass
class Shelf:
    """A file without a name, which is gone with the last example that lies in it."""

    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _size: int = 0

    def put(self, example: Example) -> Example:
        """The same example; a long context is in the file, and read when it is asked for."""
        if isinstance(example, ApartExample) or len(example.context) < _LONG:
            return example
        context = example.context.encode()
        self._file.write(context)
        start, self._size = self._size, self._size + len(context)
        return ApartExample.of(example, partial(self._read, start, len(context)))

    def _read(self, start: int, size: int) -> str:
        self._file.flush()
        return os.pread(self._file.fileno(), size, start).decode()
