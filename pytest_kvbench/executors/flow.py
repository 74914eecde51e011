"""Parsl, started and stopped: chunks in, futures out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_kvbench.errors import EngineError
from pytest_kvbench.executors.worker import Outcome, Terms, answer_chunk
from pytest_kvbench.records import Request

if TYPE_CHECKING:
    from parsl.config import Config
    from parsl.dataflow.dflow import DataFlowKernel


class Flow(Protocol):
    """Where chunks are handed to."""

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
        future: concurrent.futures.Future[list[Outcome]] = self.kernel.submit(
            answer_chunk,
            app_args=(terms, calls),
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
        with contextlib.suppress(Exception):  # the guards end what it could not
            self.kernel.cleanup()
        for keys in Path(self.kernel.run_dir).glob("*/certificates"):
            shutil.rmtree(keys, ignore_errors=True)  # no use any more; a group may be handed on
