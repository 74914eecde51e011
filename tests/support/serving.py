"""A scripted server in a thread of its own, over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from tests.support.patience import wait_for


class Serving:
    """Use as a context manager; `base_url` is up inside. Subclasses say their routes."""

    def routes(self) -> Sequence[Route]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        app = Starlette(routes=self.routes())
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started, 60, every_s=0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stop listening and drop connections, as a dead server does."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(60)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"
