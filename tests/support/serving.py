"""A scripted server in a thread of its own, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from tests.support.patience import wait_for


class _Server(uvicorn.Server):
    """Ends at once: uvicorn's own looks ten times a second whether it should, and then waits."""

    async def main_loop(self) -> None:
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), 3600)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in self.server_state.connections:
            connection.shutdown()
        if self.server_state.tasks:  # a last breath for what is nearly said
            await asyncio.wait(self.server_state.tasks, timeout=0.1)

    def end(self) -> None:
        """From another thread."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self.ended.set)


class Serving:
    """Use as a context manager; `base_url` is up inside. Subclasses say their routes."""

    def routes(self) -> Sequence[Route]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        app = Starlette(routes=self.routes())
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: hasattr(self._server, "ended"), 60, every_s=0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stop listening and drop connections, as a dead server does."""
        if self._thread.is_alive():
            self._server.end()
        self._thread.join(60)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"
