"""The log of the server: one line a request."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from pytest_kvbench.server.engine import Job
from pytest_kvbench.server.middleware import HttpMiddleware

log = logging.getLogger(__name__)


def describe(request: Request, job: Job) -> None:
    """What the log line says about a job, written when the line is."""
    request.state.describe = lambda: (
        f" prompt={len(job.ids)} arms={len(job.arms)} "
        + " ".join(f"{name}={value:.3f}" for name, value in dataclasses.asdict(job.timings).items())
    )


class RequestLog(HttpMiddleware):
    """One line a request: method, path, status, wall time, and where a job's time went."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0
        state = scope.setdefault("state", {})

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            with contextlib.suppress(OSError):
                await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            about = state.get("describe", str)
            wall = time.perf_counter() - started
            log.info("%s %s %d %.3fs%s", scope["method"], scope["path"], status, wall, about())
