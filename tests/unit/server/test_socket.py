"""What the embedded server's connections inherit from its listening socket."""

from __future__ import annotations

import asyncio
import socket

from pytest_kvbench.server import __main__ as served


def test_replies_are_not_held_back_for_more() -> None:
    seen: list[int] = []

    async def look(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = writer.get_extra_info("socket")
        seen.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> None:
        listener = served._bind("127.0.0.1", 0)
        async with await asyncio.start_server(look, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(connect())
    assert seen == [1]
