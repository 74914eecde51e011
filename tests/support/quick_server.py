"""The fastest server that a benchmark can have: chat completions over raw asyncio, one process.

    python -m tests.support.quick_server --latency 0.02

prints its port, then answers every POST with the last word of the prompt after a pause.
"""

from __future__ import annotations

import argparse
import asyncio
import json


class _Connection(asyncio.Protocol):
    """One keep-alive connection; requests on it come one after another."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = next(
            (int(v) for k, _, v in (h.partition(b":") for h in head.split(b"\r\n")[1:])
             if k.lower() == b"content-length"), 0,
        )  # fmt: skip
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        reply = _reply(head, body)
        loop = asyncio.get_running_loop()
        loop.call_later(self._latency_s, self._send, reply)

    def _send(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


def _reply(head: bytes, body: bytes) -> bytes:
    data = _models() if head.startswith(b"GET") else _completion(json.loads(body))
    payload = json.dumps(data).encode()
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
        + str(len(payload)).encode() + b"\r\n\r\n" + payload
    )  # fmt: skip


def _models() -> dict[str, object]:
    entry = {"id": "mock", "aliases": [], "fingerprint": {"weights": "mock"}}
    return {"object": "list", "data": [entry]}


def _completion(body: dict[str, object]) -> dict[str, object]:
    content = body["messages"][-1]["content"]  # type: ignore[index]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    word = text.rsplit("Say ", 1)[1].split()[0]
    arms = body.get("kv") or [{"policy": "none", "budget": 1.0}]
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "mock",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": word},
                "finish_reason": "stop",
                "completion_tokens": 2,
                "kv": {**arm, "achieved": arm["budget"], "kept_bytes": 1000, "full_bytes": 1000},
            }
            for index, arm in enumerate(arms)  # type: ignore[arg-type]
        ],
        "usage": {"prompt_tokens": len(text.split()), "completion_tokens": 2},
    }


async def _serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(latency_s), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.02)
    asyncio.run(_serve(parser.parse_args().latency))
