"""The floor under a harness: bare aiohttp and httpx loops that ask the same and keep nothing.

    python tests/benchmarks/floor.py BASE_URL ROWS.jsonl CONCURRENCY

prints, for each arrangement of clients, its name and its wall time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import httpx

Loop = Callable[[list[dict[str, object]], str, int], Awaitable[None]]


async def client_per_slot(bodies: list[dict[str, object]], url: str, concurrency: int) -> None:
    left = iter(bodies)

    async def slot() -> None:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:
            for body in left:
                (await client.post(url, json=body)).json()

    await asyncio.gather(*(slot() for _ in range(concurrency)))


async def shared_client(bodies: list[dict[str, object]], url: str, concurrency: int) -> None:
    left = iter(bodies)
    async with httpx.AsyncClient(timeout=None) as client:

        async def slot() -> None:
            for body in left:
                (await client.post(url, json=body)).json()

        await asyncio.gather(*(slot() for _ in range(concurrency)))


async def aiohttp_session(bodies: list[dict[str, object]], url: str, concurrency: int) -> None:
    left = iter(bodies)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def slot() -> None:
            for body in left:
                async with session.post(url, json=body) as response:
                    await response.json()

        await asyncio.gather(*(slot() for _ in range(concurrency)))


def main(base_url: str, rows: str, concurrency: str) -> None:
    bodies = [_body(json.loads(line)) for line in Path(rows).read_text().splitlines()]
    loops: tuple[Loop, ...] = (aiohttp_session, client_per_slot, shared_client)
    for loop in loops:
        started = time.perf_counter()
        asyncio.run(_run(loop, bodies, f"{base_url}/chat/completions", int(concurrency)))
        print(f"{loop.__name__}: {time.perf_counter() - started:.3f} s")


async def _run(loop: Loop, bodies: list[dict[str, object]], url: str, concurrency: int) -> None:
    await loop(bodies, url, concurrency)


def _body(row: dict[str, str]) -> dict[str, object]:
    text = f"{row['context']}\n\nQuestion: {row['question']}\nAnswer:"
    message = {"role": "user", "content": text}
    return {"model": "mock", "max_tokens": 64, "temperature": 0, "messages": [message]}


if __name__ == "__main__":
    main(*sys.argv[1:])
