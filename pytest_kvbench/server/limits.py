"""How large a request's body may be."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from pytest_kvbench.server.middleware import HttpMiddleware
from pytest_kvbench.server.protocol import ApiError

MOST_JSON_BYTES = 16 * 2**20
"""A prompt of a million tokens has a few MB."""

MOST_FILE_BYTES = 200 * 2**20
"""Of one input file of a batch, as at OpenAI's."""

_FORM_BYTES = 2**20  # what surrounds a file that is uploaded


class BodyLimit(HttpMiddleware):
    """Nothing is read past the limit; a body that says it is longer is not read at all.

    The application meets an ApiError (413) where it reads too far.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = _limit(scope["path"])
        read, declared = 0, _declared(scope)

        async def limited() -> Message:
            nonlocal read
            check_size(declared, limit)
            message = await receive()
            read += len(message.get("body", b""))
            check_size(read, limit)
            return message

        await self._app(scope, limited, send)


def check_size(size: int, limit: int = MOST_JSON_BYTES) -> None:
    """Refuse more bytes than may be read.

    Raises:
        ApiError: 413.
    """
    if size > limit:
        raise ApiError(413, f"The body is too large: at most {limit} bytes.", code="too_large")


def _limit(path: str) -> int:
    return MOST_FILE_BYTES + _FORM_BYTES if path == "/v1/files" else MOST_JSON_BYTES


def _declared(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() and len(length) < 20 else 0
