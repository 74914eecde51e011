"""Parsl, started and stopped: chunks in, futures out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from pytest_kvbench.errors import EngineError
from pytest_kvbench.executors.names import as_at, here
from pytest_kvbench.executors.worker import Outcome, Terms, answer_chunk
from pytest_kvbench.processes import await_end
from pytest_kvbench.records import Request

if TYPE_CHECKING:
    from parsl.config import Config
    from parsl.dataflow.dflow import DataFlowKernel


_CLOSE_S = 60.0
_CLOSE_WITHOUT_S = 2.0
"""How long Parsl may take to end: without its interchange, it would wait for that for ever."""
_EVERY_S = 0.2


class Flow(Protocol):
    """Workers that answer chunks of requests."""

    def submit(
        self, terms: Terms, calls: Sequence[Sequence[Request]]
    ) -> concurrent.futures.Future[list[Outcome]]:
        """Hand out a chunk; what the future raises is about the workers, not the requests."""

    def is_loss(self, error: BaseException) -> bool:
        """Whether an error says that a worker went away, and nothing else."""

    def close(self) -> None:
        """End everything that was started. Blocks."""


@dataclass(frozen=True)
class ParslFlow:
    """Parsl's kernel, none of whose globals are used: two experiments have two."""

    kernel: DataFlowKernel
    lost: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        for executor in self.kernel.executors.values():
            interchange = getattr(executor, "interchange_proc", None)
            if interchange is not None:
                watch = (executor, psutil.Process(interchange.pid))
                threading.Thread(target=self._outlive, args=watch, daemon=True).start()

    @classmethod
    def start(cls, config: Config, folder: Path) -> ParslFlow:
        """Start the executors. Blocks.

        Raises:
            EngineError: Parsl cannot; its words are repeated.
        """
        from parsl.dataflow.dflow import DataFlowKernel

        folder.mkdir(parents=True, exist_ok=True)
        # What it logs comes back as errors, too, and pytest would show all of it beside each.
        logging.getLogger("parsl").setLevel(logging.CRITICAL)
        try:
            return cls(DataFlowKernel(config))
        except Exception as error:  # whatever a provider raises
            raise EngineError(f"Parsl does not start: {error}", f"see {folder}") from error

    def submit(
        self, terms: Terms, calls: Sequence[Sequence[Request]]
    ) -> concurrent.futures.Future[list[Outcome]]:
        """See `Flow.submit`."""
        return self.call(answer_chunk, terms, calls)

    def call(self, function: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
        """Run a function on a worker, once the futures among its arguments are done.

        There, names of files and classes mean what they mean here.
        """
        future: concurrent.futures.Future[Any] = self.kernel.submit(
            as_at,
            app_args=(here(), function, *args),
            executors="all",
            cache=False,
            ignore_for_cache=None,
            app_kwargs={},
        )
        return future

    def is_loss(self, error: BaseException) -> bool:
        """See `Flow.is_loss`."""
        from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

        return isinstance(error, ManagerLost | WorkerLost)

    def close(self) -> None:
        """See `Flow.close`."""
        self.closing.set()
        cleanup = threading.Thread(target=self._clean_up, daemon=True)
        cleanup.start()
        cleanup.join(_CLOSE_WITHOUT_S if self.lost.is_set() else _CLOSE_S)
        for keys in Path(self.kernel.run_dir).glob("*/certificates"):
            shutil.rmtree(keys, ignore_errors=True)  # no use any more; a group may be handed on

    def _clean_up(self) -> None:
        with contextlib.suppress(Exception):  # the guards end what it could not
            self.kernel.cleanup()

    def _outlive(self, executor: Any, interchange: psutil.Process) -> None:
        """Fail the chunks of an executor whose interchange is gone: nobody would answer them."""
        await_end(interchange)
        if not self.closing.is_set():
            self.lost.set()
        error = RuntimeError("its interchange, through which it reaches them, was killed")
        while not self.closing.wait(_EVERY_S):  # again: one may just be on its way in
            _fail(executor, error)


def _fail(executor: Any, error: Exception) -> None:
    if not executor.bad_state_is_set:
        # Its results may come in meanwhile, which change what it goes through.
        with contextlib.suppress(RuntimeError, concurrent.futures.InvalidStateError):
            executor.set_bad_state_and_fail_all(error)
    for future in [f for f in list(executor.tasks.values()) if not f.done()]:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            future.set_exception(error)
