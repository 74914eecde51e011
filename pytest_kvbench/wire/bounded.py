"""Bodies of replies, read up to a limit: of bytes as they are, compressed or not.

An endless body, or one that a few kilobytes unpack to, costs its reader the limit and no more.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import aiohttp
    import httpx

MIB = 2**20
REPLY = 16 * MIB
"""Bytes that a reply may have, by default."""
ERROR = 64 * 1024
"""Bytes of an error's body that are read: its message is at its beginning."""

_PLAIN = {"Accept-Encoding": "identity"}


class TooLargeError(Exception):
    """A body beyond its limit, in bytes."""

    def __init__(self, limit: int) -> None:
        size = f"{limit / MIB:,.4g} MB"
        super().__init__(f"the reply is larger than {size}: see engine.max_reply_mb")


async def pieces(response: aiohttp.ClientResponse, limit: int) -> AsyncIterator[bytes]:
    """An unread body, piece by piece.

    Raises:
        TooLargeError: after `limit` bytes, where there are more; the connection is closed.
    """
    left = limit
    async for piece in response.content.iter_any():
        yield piece[:left]
        if len(piece) > left:
            response.close()
            raise TooLargeError(limit)
        left -= len(piece)


async def content(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """An unread body; of an error's no more than the beginning.

    Raises:
        TooLargeError: as `pieces`.
    """
    if response.status < 400:
        return b"".join([piece async for piece in pieces(response, limit)])
    found = bytearray()
    with contextlib.suppress(TooLargeError):
        async for piece in pieces(response, ERROR):
            found += piece
    return bytes(found)


def fetch(
    client: httpx.Client, method: str, url: str, *, limit: int = REPLY, **content: Any
) -> httpx.Response:
    """As `client.request`; of an error's body no more than the beginning is read.

    Raises:
        TooLargeError: the body has more than `limit` bytes; the connection is closed.
        httpx.HTTPError: as `client.request`.
    """
    from pytest_kvbench.wire.lean import httpx  # late: megabytes that no worker needs

    with opened(client, method, url, **content) as response:
        body = beginning(response, ERROR if response.is_error else limit)
        if len(body) > limit and not response.is_error:
            raise TooLargeError(limit)
    headers = {k: v for k, v in response.headers.items() if k in ("content-type", "retry-after")}
    return httpx.Response(
        response.status_code, headers=headers, content=body, request=response.request
    )


@contextlib.contextmanager
def opened(client: httpx.Client, method: str, url: str, **content: Any) -> Iterator[httpx.Response]:
    """As `client.stream`, of a body as it is; that of a redirect is not read either.

    Raises:
        httpx.HTTPError: as `client.stream`.
    """
    from pytest_kvbench.wire.lean import httpx

    request = client.build_request(method, url, headers=_PLAIN, **content)
    for _ in range(client.max_redirects + 1):
        response = client.send(request, stream=True, follow_redirects=False)
        with contextlib.closing(response):
            if response.next_request is None or not client.follow_redirects:
                yield response
                return
            request = response.next_request
    raise httpx.TooManyRedirects("it sends requests on and on", request=request)


def plain(response: httpx.Response) -> Iterator[bytes]:
    """The pieces of a body that was asked for uncompressed.

    Raises:
        httpx.DecodingError: it is compressed all the same: nobody knows how large a piece becomes.
    """
    from pytest_kvbench.wire.lean import httpx

    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise httpx.DecodingError(f"the reply is compressed ({encoding}) without being asked to")
    return response.iter_raw()


def beginning(response: httpx.Response, limit: int) -> bytes:
    """An unread body, of a larger one `limit` bytes and some more.

    Raises:
        httpx.HTTPError: as `plain`, or the connection was lost.
    """
    found = bytearray()
    for piece in plain(response):
        found += piece
        if len(found) > limit:
            break
    return bytes(found)
