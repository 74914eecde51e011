"""What stands between the socket and the application: HTTP passes through it, the rest past it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from starlette.types import ASGIApp, Receive, Scope, Send


class HttpMiddleware(ABC):
    """Sees every HTTP request; starting up and shutting down go straight to the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass HTTP to `_serve`, and anything else to the application."""
        serve = self._serve if scope["type"] == "http" else self._app
        await serve(scope, receive, send)

    @abstractmethod
    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an HTTP request."""
