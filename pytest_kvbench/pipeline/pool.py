"""Runs cell groups: each missing request once, each answer stored as it lands.

A `Pool` owns one thread with one event loop. Groups start in the order they were handed in and
share the engine's places, so that the next group's requests fill what the last one leaves idle.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_kvbench.engines.base import Engine
from pytest_kvbench.errors import EngineError, KvbenchError, RefusedError
from pytest_kvbench.pipeline.exchange import compared_with, give, take_over
from pytest_kvbench.pipeline.landing import Landing
from pytest_kvbench.records import Failure, Request
from pytest_kvbench.store.controls import ControlEntry, SharedControls
from pytest_kvbench.store.presence import Presence
from pytest_kvbench.store.store import Store

OUT_OF_TIME = (
    "the deadline is over, and not all was asked",
    "what was answered is kept and judged; the same command goes on where it stopped",
)
_NO_REPLY = "the full cache gave no reply that this one could be compared with"
_AHEAD = 256
"""Requests of a group that may wait for an engine of fewer places: more only cost memory."""


@dataclass(frozen=True)
class Work:
    """What one cell group needs: its requests, answered or not.

    Where `wanted` is given, it says which of them are wanted with what is stored so far, and is
    asked again after they are settled, until it names nothing new.
    """

    task_bin: str
    requests: Sequence[Request]
    wanted: Callable[[Store], Sequence[Request]] | None = None


@dataclass(frozen=True)
class Tally:
    """How many of a group's requests were stored before, reused, answered, and failed."""

    stored: int = 0
    reused: int = 0
    answered: int = 0
    failed: int = 0

    def __add__(self, other: Tally) -> Tally:
        mine, theirs = asdict(self), asdict(other)
        return Tally(**{name: mine[name] + theirs[name] for name in mine})


class Pool:
    """Answers groups of requests in the background.

    Args:
        database: the group's database; the pool opens a connection of its own.
        start_engine: gives the running engine; called once, off the event loop, when the first
            request is missing. Blocks.
        controls: where controls are shared.
        takes_over: whether what another group has paid for may be taken from there.
        on_answers: called with the number of requests settled, in the pool's thread.
        sent: gives a request with its prompt, when it is asked and not before.
        ends_at: the time, in seconds since the epoch, after which nothing is asked.
    """

    def __init__(
        self,
        database: Path,
        start_engine: Callable[[], Engine],
        controls: SharedControls,
        *,
        takes_over: bool = True,
        on_answers: Callable[[int], None] = lambda _: None,
        sent: Callable[[Request], Request] = lambda request: request,
        ends_at: float = math.inf,
    ) -> None:
        self._ends_at = ends_at
        self._takes_over = takes_over
        self._start_engine = start_engine
        self._controls = controls
        self._on_answers = on_answers
        self._sent = sent
        self._loop = asyncio.new_event_loop()
        self._store = Store(database)
        self._landing = Landing(self._store)
        self._presence = Presence(database.parent)
        self._tasks: set[asyncio.Task[Tally]] = set()
        self._engine: asyncio.Task[Engine] | None = None
        self._thread = threading.Thread(target=self._serve, name="kvbench-pool", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> concurrent.futures.Future[Tally]:
        """Start a group; the future ends when its last request has an answer or a failure.

        The future raises a KvbenchError if the engine cannot be started or is gone.
        """
        return asyncio.run_coroutine_threadsafe(self._track(work), self._loop)

    def close(self) -> None:
        """Stop at once: requests under way are dropped, what was answered is stored already."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._wind_down(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._store.close()
            self._presence.close()
            self._loop.close()

    async def _wind_down(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._landing.flush()
        if self._engine is not None and self._engine.done() and not self._engine.exception():
            await self._engine.result().aclose()
        await self._loop.shutdown_default_executor()

    async def _track(self, work: Work) -> Tally:
        task = asyncio.ensure_future(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task

    async def _run(self, work: Work) -> Tally:
        controls = [r for r in work.requests if r.arm.is_control]
        if not controls:
            return await self._rounds(work, None)
        async with self._controls.hold(controls[0].arm, work.task_bin) as entry:
            tally = await self._rounds(work, entry)
            give(self._store, entry, controls)
        return tally

    async def _rounds(self, work: Work, entry: ControlEntry | None) -> Tally:
        """Ask everything at once, or round after round what is wanted by then; nothing twice."""
        if work.wanted is None:
            return await self._complete(work.requests, entry)
        tally, settled = Tally(), set[str]()
        while new := [r for r in work.wanted(self._store) if r.key not in settled]:
            tally += await self._complete(new, entry)
            settled |= {r.key for r in new}
        self._on_answers(len(work.requests) - len(settled))  # the rest is spared
        return tally

    async def _complete(self, requests: Sequence[Request], entry: ControlEntry | None) -> Tally:
        """Ask what is still missing: another run may have asked it while we waited."""
        stored = self._store.answered([r.key for r in requests])
        missing = [r for r in requests if r.key not in stored]
        self._store.save_requests(missing)
        shares = entry is not None and self._takes_over
        reused = take_over(self._store, entry, missing) if entry and shares else set()
        left = [r for r in missing if r.key not in reused]
        self._on_answers(len(requests) - len(left))
        failed = await self._ask_in_time(left, entry) if left else 0
        return Tally(len(stored), len(reused), len(left) - failed, failed)

    async def _ask_in_time(self, missing: Sequence[Request], entry: ControlEntry | None) -> int:
        """As `_ask`, until the deadline: requests under way are dropped then.

        Raises:
            EngineError: it is over, and not all was answered.
        """
        left_s = self._ends_at - time.time()
        try:
            async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                return await self._ask(missing, entry)
        except TimeoutError:
            raise EngineError(*OUT_OF_TIME) from None

    async def _ask(self, missing: Sequence[Request], entry: ControlEntry | None) -> int:
        """Ask the engine for some requests; how many of them failed.

        What is compared with a reply that comes first waits for it.
        """
        engine = await self._get_engine()
        every = _batches(missing, engine.capabilities.arms_per_request)
        failed = await self._ask_all(engine, [b for b in every if not _waits(b)], entry)
        return failed + await self._ask_compared(engine, [b for b in every if _waits(b)], entry)

    async def _ask_compared(
        self, engine: Engine, waiting: Sequence[Sequence[Request]], entry: ControlEntry | None
    ) -> int:
        """Ask what is compared with replies that are here; of a reply that failed, all do."""
        asked, failed = [], 0
        for batch in waiting:
            told = compared_with(self._store, batch)
            lost = [r for r in told if r.against is None]
            self._store.save_failures([Failure(r.key, "ENGINE_ERROR", _NO_REPLY) for r in lost])
            self._on_answers(len(lost))
            failed += len(lost)
            asked += [told] if not lost else []
        return failed + await self._ask_all(engine, asked, entry)

    async def _ask_all(
        self, engine: Engine, every: Sequence[Sequence[Request]], entry: ControlEntry | None
    ) -> int:
        batches = iter(every)

        async def slot() -> int:
            return sum([await self._settle(engine, batch, entry) for batch in batches])

        async with asyncio.TaskGroup() as group:
            # Who waits for the database holds no place: as many again keep all of them busy.
            most = min(len(every), max(_AHEAD, 2 * engine.capabilities.places))
            slots = [group.create_task(slot()) for _ in range(most)]
        return sum(slot.result() for slot in slots)

    async def _settle(
        self, engine: Engine, batch: Sequence[Request], entry: ControlEntry | None
    ) -> int:
        """Ask once and store the outcomes; the number of failures. The engine bounds itself."""
        try:
            outcomes = await engine.answer([self._sent(request) for request in batch])
        except RefusedError as refused:  # what the server said is not to be lost with the run
            self._store.save_failures([Failure(r.key, "ENGINE_ERROR", refused.what) for r in batch])
            raise
        answers = await self._landing.land(outcomes)
        if entry is not None:
            controls = {r.key for r in batch if r.arm.is_control}
            entry.add([a for a in answers if a.key in controls])
        self._on_answers(len(outcomes))
        return sum(isinstance(outcome, Failure) for outcome in outcomes)

    async def _get_engine(self) -> Engine:
        """The engine, started by the first request; a failure to start it is raised for all."""
        if self._engine is None:
            self._engine = asyncio.ensure_future(asyncio.to_thread(self._start_engine))
        return await asyncio.shield(self._engine)


def first_cause(error: BaseException) -> KvbenchError:
    """The error meant for people inside what a group raised.

    Raises:
        BaseException: `error` itself, where it is none of ours.
    """
    if isinstance(error, BaseExceptionGroup):
        return first_cause(error.exceptions[0])
    if isinstance(error, KvbenchError):
        return error
    if isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError):
        return EngineError("the run was stopped before this group was done", "run again")
    raise error


def _waits(batch: Sequence[Request]) -> bool:
    """Whether it is compared with a reply that it does not ask for itself."""
    own = {request.key for request in batch}
    return any(request.reference not in own for request in batch if request.reference)


def _batches(missing: Sequence[Request], most: int) -> list[list[Request]]:
    """Requests that can share a prefill (same example and repetition), at most `most` together.

    Where none can, an arm follows the other: its server may be the only one that is up.
    """
    together: dict[tuple[object, ...], list[Request]] = {}
    for r in missing:
        shared = (r.example_id, r.asks, r.replicate, r.arm.method, r.aa and not r.arm.method)
        together.setdefault(shared, []).append(r)
    if most == 1:
        by_arm = dict.fromkeys(r.arm.arm_id for r in missing)
        order = {arm_id: place for place, arm_id in enumerate(by_arm)}
        return [[r] for r in sorted(missing, key=lambda r: order[r.arm.arm_id])]
    return [part for batch in together.values() for part in _parts(batch, most)]


def _parts(batch: list[Request], most: int) -> Iterator[list[Request]]:
    """A batch in pieces; where the full cache is sent beside an arm, one place is its own."""
    places = most - bool(batch[0].arm.method)
    return (batch[start : start + places] for start in range(0, len(batch), places))
