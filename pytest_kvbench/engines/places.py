"""What all processes of a run share of an engine: requests in flight, and requests a minute.

Processes that meet in a folder share exactly: a place is a byte of a file there, and whoever locks
it has it. The operating system frees the places of the dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import threading
from collections import deque
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_kvbench.engines.pacing import Pace
from pytest_kvbench.records import digest

if TYPE_CHECKING:
    from pytest_kvbench.experiment.engine import EngineSettings

_EVERY_S = 0.02
"""How often a process that waits looks for a place that another has given back."""
_PRESENT = 2**40
"""The byte that all of a file's processes lock together, for as long as they live."""


@dataclass(frozen=True)
class Crowd:
    """The processes of a run that ask the same engine.

    Args:
        share: about how many ask at the same time.
        folder: where they meet, made when it is needed; None: they do not, and each keeps to its
            part.
    """

    share: int = 1
    folder: Path | None = None

    def most(self, count: int) -> int:
        """How many of `count` places this process may have at once."""
        return count if self.folder is not None else self._part(count)

    def places(self, count: int, name: str) -> AbstractAsyncContextManager[None]:
        """Lets `count` in at once, in all processes together; `name` says what for."""
        if self.folder is None:
            return asyncio.Semaphore(self._part(count))
        return SharedPlaces(self._file(f"{name}.places"), count, self._part(count))

    def pace(self, settings: EngineSettings) -> Pace:
        """Lets through as much a minute as the engine may be asked, in all processes together.

        One for all arms: a provider counts an account's requests, whatever they are for.
        """
        if self.folder is None:
            return Pace(settings.max_rpm, settings.max_tpm, self.share)
        meeting = self._file(f"{name_of(settings)}.pace")
        return Pace(settings.max_rpm, settings.max_tpm, meet_at=meeting)

    def _part(self, count: int) -> int:
        return max(1, count // self.share)

    def _file(self, name: str) -> Path:
        assert self.folder is not None  # noqa: S101 -- asked before
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder / name


def name_of(settings: EngineSettings) -> str:
    """A name for an engine, the same in all processes of a run."""
    return f"engine-{digest(settings.model_dump(mode='json'))[:12]}"


def in_use(folder: Path) -> bool:
    """Whether a living process, but this one, shares places in a folder."""
    return any(map(_locked, folder.glob("*.places")))


def _locked(file: Path) -> bool:
    with file.open("r+b") as opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
    return False


class SharedPlaces:
    """An asynchronous context manager that lets `count` in at once, whatever process they are of.

    Args:
        file: where the processes meet.
        count: places.
        share: how many of them this process hands on to its next at once. It gives back what it has
            beyond, so that nobody is kept waiting by one who has much to do.
    """

    def __init__(self, file: Path, count: int, share: int) -> None:
        self._slots = _slots(file, count)
        self._share = share
        self._held: list[int] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        if not self._waiting and self._take():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._look_later()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._give_up(turn)
            else:  # it had just come
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        with contextlib.suppress(ValueError):  # gone already, as one that was called in vain
            self._waiting.remove(turn)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self) -> bool:
        slot = self._slots.take()
        if slot is not None:
            self._held.append(slot)
        return slot is not None

    def _leave(self) -> None:
        if len(self._held) > self._share or not self._call_next():
            self._slots.give(self._held.pop())

    def _call_next(self) -> bool:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else cancelled
                turn.set_result(None)
                return True
        return False

    def _look(self) -> None:
        self._timer = None
        while self._waiting and self._take():
            if not self._call_next():
                self._slots.give(self._held.pop())
        self._look_later()

    def _look_later(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)


class _Slots:
    """Numbers from 0 to `count` - 1, each held by at most one holder of all processes.

    Record locks are a process's, not a file object's: within it, a set says who holds what, and
    the file is never closed, which would free all of them.
    """

    def __init__(self, file: Path, count: int) -> None:
        self._file: BinaryIO = file.open("a+b")
        fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _PRESENT)
        self._free = set(range(count))
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """Take a free place, by its number; None where all are taken."""
        with self._lock:
            for slot in self._free:
                with contextlib.suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                    self._free.discard(slot)
                    return slot
        return None

    def give(self, slot: int) -> None:
        """Free a place that was taken."""
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)
            self._free.add(slot)


@functools.cache
def _slots(file: Path, count: int) -> _Slots:
    """The places of a file, the same object throughout this process: see `_Slots`."""
    return _Slots(file, count)
