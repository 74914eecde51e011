"""The requests of a plan, held as columns: a request is made when it is read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar, overload

from pytest_kvbench.alike import Column, Filling
from pytest_kvbench.records import Cell, Request

Pair = tuple[Cell, Request]
_Named = tuple[str, str, str]
T = TypeVar("T")
_KEY_BYTES = 32
_AT_ONCE = 5_000


class _Made(Sequence[T]):
    """Members that are made when they are read, each by its place."""

    @abstractmethod
    def _at(self, place: int) -> T: ...

    def __iter__(self) -> Iterator[T]:
        return map(self._at, range(len(self)))

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        places = range(len(self))[at]
        return self._at(places) if isinstance(places, int) else [*map(self._at, places)]


class Keys(_Made[str]):
    """Keys of requests, 32 bytes each."""

    def __init__(self) -> None:
        self.held = bytearray()

    def __len__(self) -> int:
        return len(self.held) // _KEY_BYTES

    def _at(self, place: int) -> str:
        return self.held[place * _KEY_BYTES : (place + 1) * _KEY_BYTES].hex()


class Plan(_Made[Pair]):
    """Requests without texts, each with its cell, in the order they came.

    Of each its key is held, and where it stands among those that differ by the example alone: 40
    bytes in place of 800.
    """

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self.keys = Keys()
        kinds, examples, left = Filling[Pair](), Filling[_Named](), iter(pairs)
        while some := [*islice(left, _AT_ONCE)]:
            kinds.add(some, map(_kind_of, some))
            # Twice: a list of them would be held until the next one is made.
            examples.add(map(_example_of, some), map(_example_of, some))
            self.keys.held += bytes.fromhex("".join(request.key for _, request in some))
        self._kinds, self._examples = kinds.column, examples.column

    @classmethod
    def of(cls, parts: Sequence[Plan]) -> Plan:
        """Plans one after another."""
        if len(parts) == 1:
            return parts[0]
        whole = cls()
        whole._kinds = Column.joined(part._kinds for part in parts)
        whole._examples = Column.joined(part._examples for part in parts)
        whole.keys.held += b"".join(part.keys.held for part in parts)
        return whole

    def among(self, cells: Collection[Cell]) -> Plan:
        """The requests of some cells; itself where that is all."""
        if all(cell in cells for cell, _ in self._kinds.values):
            return self
        return Plan(pair for pair in self if pair[0] in cells)

    @property
    def requests(self) -> Sequence[Request]:
        """Those alone."""
        return _Requests(self)

    def __len__(self) -> int:
        return len(self._kinds)

    def _at(self, place: int) -> Pair:
        """A request with all fields set at once: its constructor would take half as long again."""
        cell, like = self._kinds[place]
        request = object.__new__(Request)
        vars(request).update(vars(like), key=self.keys[place])
        vars(request).update(zip(_OF_EXAMPLE, self._examples[place], strict=True))
        return cell, request


def _kind_of(pair: Pair) -> Hashable:
    """Requests of one kind differ by their example alone."""
    cell, asked = pair
    return cell, asked.arm.arm_id, asked.replicate, asked.aa, asked.prompt.max_tokens


def _example_of(pair: Pair) -> _Named:
    return pair[1].example_id, pair[1].prompt_id, pair[1].reference


_OF_EXAMPLE = ("example_id", "prompt_id", "reference")


class _Requests(_Made[Request]):
    """The requests of a plan without their cells, as little held as these."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def _at(self, place: int) -> Request:
        return self._plan[place][1]
