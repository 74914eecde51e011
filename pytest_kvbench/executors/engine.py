"""The engine that hands requests to other processes: in chunks, again where a worker is lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench.engines import Capabilities, stop_all
from pytest_kvbench.engines.kinds import arms_per_request
from pytest_kvbench.errors import EngineError
from pytest_kvbench.executors.flow import Flow, ParslFlow
from pytest_kvbench.executors.worker import VERSION, Outcome, Terms, server_folders
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.executor import ExecutorSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.files import run_folder
from pytest_kvbench.records import Answer, Failure, Request, canonical

CHUNK = 16
"""Requests that travel together, at most: what is lost with a worker."""

_AHEAD = 2
"""Chunks per worker: one is answered, one is on its way."""

_LOSSES = 3
"""After so many lost workers a request is taken for their end, and is a failure."""


def parsl_engine(
    executor: ExecutorSettings,
    engine: EngineSettings,
    kv: KV,
    *,
    fingerprint: Mapping[str, str],
    run_id: str,
    folder: Path,
) -> HandedOut:
    """An engine whose requests Parsl's workers answer. Starts nothing before it is asked.

    Args:
        executor: the experiment's `executor` section.
        engine: its `engine` section: what the workers reach, or start.
        kv: its `kv` section.
        fingerprint: the run's; a worker with another refuses.
        run_id: the run's.
        folder: the group's folder; Parsl keeps its files in `parsl` there.

    Raises:
        UsageError: see `presets.config_of`.
    """
    from pytest_kvbench.executors import presets

    work_folder = folder / "parsl"
    config = presets.config_of(executor, work_folder)
    places = presets.places(config)
    if engine.addresses:  # one endpoint, whose places all workers divide
        ahead = places * _AHEAD if places <= engine.concurrency else engine.concurrency
        share = min(places, engine.concurrency)
    else:
        ahead, share = places * _AHEAD, presets.workers_of_node(config)
    terms = Terms(
        version=VERSION,
        engine=canonical(engine.model_dump(mode="json")).decode(),
        kv=canonical(kv.model_dump(mode="json")).decode(),
        fingerprint=canonical(dict(fingerprint)).decode(),
        run_id=run_id,
        folder=str(folder.resolve()),
        share=share,
    )
    capabilities = Capabilities(CHUNK if arms_per_request(engine) > 1 else 1, places=ahead * CHUNK)
    return HandedOut(
        lambda: ParslFlow.start(config, work_folder),
        terms,
        capabilities,
        places=places,
        ahead=ahead,
    )


@dataclass(eq=False)
class _Call:
    """One call of `answer` that waits, and how often its worker was lost."""

    requests: tuple[Request, ...]
    outcome: asyncio.Future[list[Answer | Failure]]
    lost: int = 0


class HandedOut:
    """An engine whose calls are answered elsewhere. Used from one event loop.

    Calls that wait at the same moment travel together: few enough that every place gets some, and
    at most `CHUNK` requests.

    Args:
        start: starts the workers; called off the event loop, at the first request. Blocks.
        terms: what workers need.
        capabilities: of the engine that the workers use.
        places: how many chunks can be answered at once.
        ahead: chunks that may be out at once.
    """

    def __init__(
        self,
        start: Callable[[], Flow],
        terms: Terms,
        capabilities: Capabilities,
        *,
        places: int,
        ahead: int,
    ) -> None:
        self.capabilities = capabilities
        self._start = start
        self._terms = terms
        self._places = places
        self._free = ahead
        self._waiting: deque[_Call] = deque()
        self._flow: asyncio.Task[Flow] | None = None

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """See `Engine.answer`."""
        if self._flow is None:
            self._flow = asyncio.ensure_future(asyncio.to_thread(self._start))
        await asyncio.shield(self._flow)
        call = _Call(tuple(requests), asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        # Later, when all that could go together is here.
        asyncio.get_running_loop().call_soon(self._hand_out)
        return await call.outcome

    async def aclose(self) -> None:
        """See `Engine.aclose`: ends the workers too, and what they left on this machine."""
        if self._flow is None:
            return
        (flow,) = await asyncio.gather(self._flow, return_exceptions=True)
        if not isinstance(flow, BaseException):
            await asyncio.to_thread(flow.close)
        await asyncio.to_thread(_tidy_up, self._terms.run_id)

    def _hand_out(self) -> None:
        loop = asyncio.get_running_loop()
        while self._free and (chunk := self._next_chunk()):
            self._free -= 1
            future = self._running.submit(self._terms, [call.requests for call in chunk])
            future.add_done_callback(functools.partial(self._hurry, loop, chunk))

    @property
    def _running(self) -> Flow:
        assert self._flow is not None  # noqa: S101 -- nobody waits before it is there
        return self._flow.result()

    def _next_chunk(self) -> list[_Call]:
        """The next calls, in order; one whose worker was lost goes alone: it may be why."""
        self._waiting = deque(c for c in self._waiting if not c.outcome.done())  # cancelled
        if not self._waiting:
            return []
        if self._waiting[0].lost:
            return [self._waiting.popleft()]
        total = sum(len(call.requests) for call in self._waiting)
        most = min(CHUNK, -(-total // self._places))
        sizes = itertools.accumulate(len(call.requests) for call in self._waiting)
        fit = sum(1 for _ in itertools.takewhile(lambda size: size <= most, sizes))
        return [self._waiting.popleft() for _ in range(max(1, fit))]

    def _hurry(
        self,
        loop: asyncio.AbstractEventLoop,
        chunk: list[_Call],
        done: concurrent.futures.Future[list[Outcome]],
    ) -> None:
        """From one of Parsl's threads to the loop, if that still runs."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._land, chunk, done)

    def _land(self, chunk: list[_Call], done: concurrent.futures.Future[list[Outcome]]) -> None:
        self._free += 1
        error = done.exception()
        if error is None:
            for call, outcome in zip(chunk, done.result(), strict=True):
                _settle(call, outcome)
        elif self._running.is_loss(error):
            self._take_back(chunk, str(error))
        else:
            problem = EngineError(
                f"Parsl's workers cannot answer: {_first_line(error)}",
                f"what was answered is kept; logs: {self._terms.folder}/parsl",
            )
            for call in chunk:
                _settle(call, problem)
        self._hand_out()

    def _take_back(self, chunk: Sequence[_Call], cause: str) -> None:
        for call in reversed(chunk):
            call.lost += 1
            if call.lost < _LOSSES:
                self._waiting.appendleft(call)
            else:
                message = f"its worker was lost {call.lost} times: {cause}"
                _settle(call, [Failure(r.key, "ENGINE_ERROR", message) for r in call.requests])


def _settle(call: _Call, outcome: Outcome) -> None:
    if call.outcome.done():  # cancelled meanwhile
        return
    if isinstance(outcome, EngineError):
        call.outcome.set_exception(outcome)
    else:
        call.outcome.set_result(outcome)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " | ".join([type(error).__name__, *lines[:4]])


def _tidy_up(run_id: str) -> None:
    """Remove the folders in which workers of this machine met; their servers have ended."""
    pattern = run_folder(server_folders(run_id))
    for folder in pattern.parent.glob(pattern.name):
        stop_all(folder)
