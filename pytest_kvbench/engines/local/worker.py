"""The one thread that runs the model: jobs wait in line, first come, first served."""

from __future__ import annotations

import logging
import queue
import threading

import torch

from pytest_kvbench.engines.local.engine import Engine, Job

log = logging.getLogger(__name__)


class Worker(threading.Thread):
    """Takes jobs from a queue; what comes of them goes out through `Job.emit`."""

    def __init__(self, engine: Engine, threads: int) -> None:
        super().__init__(name="kvbench-model", daemon=True)
        self._engine = engine
        self._threads = threads
        self._waiting: queue.Queue[Job] = queue.Queue()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the line."""
        self._waiting.put(job)

    @property
    def waiting(self) -> int:
        """Jobs in line, the running one not counted."""
        return self._waiting.qsize()

    def run(self) -> None:
        """Run jobs until the process ends."""
        torch.set_num_threads(self._threads)  # OpenMP keeps this number per thread
        while True:
            self._run(self._waiting.get())

    def _run(self, job: Job) -> None:
        if job.cancelled:
            return
        try:
            rows = self._engine.start(job)
            while rows:
                rows = self._engine.step(rows)
        except Exception as error:  # whatever it is, the client must hear of it and the line go on
            log.exception("a job failed")
            job.emit(error)
