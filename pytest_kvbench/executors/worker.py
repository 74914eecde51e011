"""What a Parsl worker does: one engine per process, made at the first chunk and kept."""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import platform
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvbench import installed
from pytest_kvbench.engines import Engine, EngineSource, engine_source
from pytest_kvbench.errors import EngineError, KvbenchError, RefusedError
from pytest_kvbench.executors.names import is_worker
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.records import Answer, Failure, Request

Outcome = list[Answer | Failure] | EngineError
"""What one call of `Engine.answer` gave, or what it raised."""

VERSION = installed.version("pytest-kvbench")


@dataclass(frozen=True)
class Terms:
    """What a worker needs to make its engine, the same for a whole run. Plain, hashable data.

    `engine`, `kv` and `fingerprint` are JSON. `run_id` is the run's; a worker adds its node and
    manager. `folder` takes the logs of servers, where the node has it. `share` processes share
    the engine's places: those of a server that they start exactly, those of an endpoint by parts.
    """

    version: str
    engine: str
    kv: str
    fingerprint: str
    run_id: str
    folder: str
    share: int


def answer_chunk(terms: Terms, calls: Sequence[Sequence[Request]]) -> list[Outcome]:
    """Answer some calls of `Engine.answer`, all at once as far as the engine lets them.

    Runs in a worker. What is meant for people comes back as data, so that what a chunk raises is
    Parsl's alone.
    """
    try:
        return _desk(terms).answer(calls)
    except KvbenchError as error:
        return [_with_place(error)] * len(calls)


def server_folders(run_id: str) -> str:
    """A pattern for the run ids that workers of this run gave to what they started."""
    return f"{run_id}.*"


class _Desk:
    """An engine with an event loop of its own, which stays open between chunks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        atexit.register(self._close)

    def answer(self, calls: Sequence[Sequence[Request]]) -> list[Outcome]:
        """The outcomes of some calls, in their order; or the error that a call stopped with."""
        return asyncio.run_coroutine_threadsafe(self._all(calls), self._loop).result()

    def _close(self) -> None:
        """A worker is ended by its manager; a thread of the controller gets here."""
        asyncio.run_coroutine_threadsafe(self._engine.aclose(), self._loop).result()

    async def _all(self, calls: Sequence[Sequence[Request]]) -> list[Outcome]:
        return await asyncio.gather(*map(self._one, calls))

    async def _one(self, call: Sequence[Request]) -> Outcome:
        try:
            return await self._engine.answer(call)
        except KvbenchError as error:
            return _with_place(error)


@functools.cache
def _desk(terms: Terms) -> _Desk:
    """This process's engine, checked against the run's.

    Raises:
        KvbenchError: it cannot start here, or is not the one the run is about.
    """
    if terms.version != VERSION:
        raise EngineError(
            f"pytest-kvbench {VERSION} is installed, the run has {terms.version}",
            "install the same version where the workers run",
        )
    source = _source(terms)
    source.check()
    check_fingerprint(json.loads(terms.fingerprint), source.fingerprint())
    return _Desk(source.start())


def check_fingerprint(wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse an engine that may answer otherwise than the run's.

    Raises:
        EngineError: naming what differs.
    """
    differ = sorted(k for k in {*wanted, *found} if wanted.get(k) != found.get(k))
    if differ:
        message = ", ".join(
            f"{k} is {_short(found.get(k))}, not {_short(wanted.get(k))}" for k in differ
        )
        raise EngineError(
            f"the engine is not that of the run: {message}",
            "workers need the same packages, weights and devices as where the run was prepared",
        )


def _source(terms: Terms) -> EngineSource:
    """The engine as this worker reaches or starts it.

    The workers of a manager share one server, which ends with the manager. Another manager on the
    node has its own: what one leaves behind when it is killed must not be taken for a server.
    """
    owner = os.getppid() if is_worker() else os.getpid()
    node = re.sub(r"\W", "_", platform.node())
    folder = Path(terms.folder)
    logs = folder if folder.is_dir() else Path(tempfile.gettempdir())
    settings = EngineSettings(**json.loads(terms.engine))
    return engine_source(
        settings,
        KV(**json.loads(terms.kv)),
        run_id=server_folders(terms.run_id).replace("*", f"{node}.{owner}"),
        owner_pid=owner,
        log=logs / f"engine-{node}-{owner}.log",
        share=terms.share,
        meet=not settings.addresses,
    )


def _with_place(error: KvbenchError) -> EngineError:
    """An error of a worker, as one that says where it was."""
    kind = RefusedError if isinstance(error, RefusedError) else EngineError
    return kind(f"worker on {platform.node()}: {error.what}", error.hint)


def _short(value: str | None) -> str:
    if value is None:
        return "missing"
    return value if len(value) <= 24 else f"{value[:12]}..."
