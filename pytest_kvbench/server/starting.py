"""A job while its prompt is on its way through the model, in one pass or in several."""

from __future__ import annotations

from collections.abc import Generator

from pytest_kvbench.server.jobs import Job
from pytest_kvbench.server.ragged import RowKV
from pytest_kvbench.server.rows import Prepared

Steps = Generator[None, None, list[Prepared]]
"""The passes over a job's prompt: others get their turn after each but the last."""


class Starting:
    """Such a job, and the caches that some of its arms have already."""

    done = False

    def __init__(self, job: Job, caches: list[RowKV], steps: Steps) -> None:
        self.job = job
        self.caches = caches
        self._steps = steps

    def advance(self) -> list[Prepared] | None:
        """One more pass; what the arms have after the last one."""
        try:
            next(self._steps)
        except StopIteration as end:
            prepared: list[Prepared] = end.value
            return prepared
        return None
