"""The one thread that runs the model: jobs wait in line, first come, first served.

Rows of several jobs decode together, because a step reads the weights once however many rows there
are. In float32 that leaves answers as they are; in shorter types it would not, so jobs then run
one at a time.
"""

from __future__ import annotations

import logging
import queue
import threading

import torch

from pytest_kvbench.server.engine import Engine, Job, Run

log = logging.getLogger(__name__)


class Worker(threading.Thread):
    """Takes jobs from a queue; what comes of them goes out through `Job.emit`.

    A job is let in beside running ones while there are fewer than `shared_rows` rows. A server's
    runs until the process ends; others are told to `end`, or their engine keeps its memory.
    """

    def __init__(self, engine: Engine, threads: int, shared_rows: int) -> None:
        super().__init__(name="kvbench-model", daemon=True)
        self._engine = engine
        self._threads = threads
        self._shared_rows = shared_rows
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._ending = False
        self._first: Job | None = None

    def submit(self, job: Job) -> None:
        """Put a job at the end of the line."""
        self._waiting.put(job)

    def end(self) -> None:
        """Take no job after those in line, and end with the last."""
        self._waiting.put(None)

    @property
    def waiting(self) -> int:
        """Jobs in line, the running ones not counted."""
        return self._waiting.qsize() + (self._first is not None)

    def run(self) -> None:
        """Run jobs until it is told to end."""
        torch.set_num_threads(self._threads)  # OpenMP keeps this number per thread
        rows: list[Run] = []
        while rows or not self._ending:
            rows = self._step(self._admit(rows))

    def _admit(self, rows: list[Run]) -> list[Run]:
        """The rows, and those of waiting jobs; waits for a job if there is nothing to do."""
        while not self._ending and (not rows or len(rows) < self._shared_rows):
            try:
                job = self._first or self._waiting.get(block=not rows)
            except queue.Empty:
                break
            if job is None:
                self._ending = True
                break
            self._first = job
            admitted = self._engine.admits(job, rows)  # asked always: it frees what nobody has
            if rows and not admitted:
                break
            self._first = None
            rows = rows + self._start(job)
        return rows

    def _start(self, job: Job) -> list[Run]:
        try:
            return [] if job.cancelled else self._engine.start(job)
        except Exception as error:  # whatever it is, the client must hear of it and the line go on
            self._fail([job], error)
            return []

    def _step(self, rows: list[Run]) -> list[Run]:
        try:
            return self._engine.step(rows)
        except Exception as error:  # as above
            self._fail([row.job for row in rows], error)
            return []

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        log.error("the model failed", exc_info=error)
        self._engine.note_memory(error)
        for job in {id(job): job for job in jobs}.values():
            job.emit(error)
