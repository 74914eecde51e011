"""Values of which many are alike: each is held once, and at every place where it stands a code."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")


class Column(Sequence[T]):
    """Values by place: `values[codes[place]]`."""

    def __init__(self, values: Sequence[T] = (), codes: Iterable[int] = ()) -> None:
        self.values = values
        self.codes = array("I", codes)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[T]:
        return map(self.values.__getitem__, self.codes)

    def __getitem__(self, place: int) -> T:  # type: ignore[override]  # a place, never a slice
        return self.values[self.codes[place]]

    def taken(self, places: Iterable[int]) -> Column[T]:
        """Those at some places, in that order."""
        return Column(self.values, map(self.codes.__getitem__, places))

    def with_values(self, values: Sequence[S]) -> Column[S]:
        """The same places with something else for each of its values."""
        other = Column(values)
        other.codes = self.codes
        return other

    @classmethod
    def joined(cls, parts: Iterable[Column[T]]) -> Column[T]:
        """Columns one after another; what is alike in two of them is held twice."""
        values, whole = list[T](), cls()
        for part in parts:
            whole.codes.extend(code + len(values) for code in part.codes)
            values += part.values
        whole.values = values
        return whole


class Filling(Generic[T]):
    """A column while it is filled: it knows what it holds."""

    def __init__(self) -> None:
        self._held = list[T]()
        self._met: dict[Hashable, int] = {}
        self.column = Column(self._held)

    def add(self, values: Iterable[T], names: Iterable[Hashable]) -> None:
        """Take values; those of one name are alike."""
        held, met, take = self._held, self._met, self.column.codes.append
        for value, name in zip(values, names, strict=True):
            if (code := met.setdefault(name, len(held))) == len(held):
                held.append(value)
            take(code)
