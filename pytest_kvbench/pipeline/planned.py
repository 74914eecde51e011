"""The requests of a plan, held as columns: a request is made when it is read."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar, overload

from pytest_kvbench.records import Cell, Request

Pair = tuple[Cell, Request]
T = TypeVar("T")
_KEY_BYTES = 32


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
        self._kinds, self._kind = list[Pair](), array("I")
        self._examples, self._example = list[tuple[str, str, str]](), array("I")
        kinds: dict[object, int] = {}
        examples: dict[object, int] = {}
        for cell, request in pairs:
            of_arm = (request.arm.arm_id, request.replicate, request.aa, request.prompt.max_tokens)
            arm = (cell, *of_arm)
            named = (request.example_id, request.prompt_id, request.reference)
            if arm not in kinds:
                kinds[arm] = len(self._kinds)
                self._kinds.append((cell, request))
            if named not in examples:
                examples[named] = len(self._examples)
                self._examples.append(named)
            self._kind.append(kinds[arm])
            self._example.append(examples[named])
            self.keys.held += bytes.fromhex(request.key)

    @classmethod
    def of(cls, parts: Sequence[Plan]) -> Plan:
        """Plans one after another."""
        if len(parts) == 1:
            return parts[0]
        whole = cls()
        for part in parts:
            whole._kind.extend(code + len(whole._kinds) for code in part._kind)
            whole._example.extend(code + len(whole._examples) for code in part._example)
            whole._kinds += part._kinds
            whole._examples += part._examples
            whole.keys.held += part.keys.held
        return whole

    def among(self, cells: Collection[Cell]) -> Plan:
        """The requests of some cells; itself where that is all."""
        if all(cell in cells for cell, _ in self._kinds):
            return self
        return Plan(pair for pair in self if pair[0] in cells)

    @property
    def requests(self) -> Sequence[Request]:
        """Those alone."""
        return _Requests(self)

    def __len__(self) -> int:
        return len(self._kind)

    def _at(self, place: int) -> Pair:
        """A request with all fields set at once: its constructor would take half as long again."""
        cell, like = self._kinds[self._kind[place]]
        request = object.__new__(Request)
        vars(request).update(vars(like), key=self.keys[place])
        vars(request).update(zip(_OF_EXAMPLE, self._examples[self._example[place]], strict=True))
        return cell, request


_OF_EXAMPLE = ("example_id", "prompt_id", "reference")


class _Requests(_Made[Request]):
    """The requests of a plan without their cells, as little held as these."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    def _at(self, place: int) -> Request:
        return self._plan[place][1]
