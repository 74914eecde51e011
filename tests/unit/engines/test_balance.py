"""Several servers as one: the least busy is asked, a dead one is left out and taken back."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_kvbench.engines import balance
from pytest_kvbench.engines.balance import Balanced, alike
from pytest_kvbench.engines.base import Reply
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings


@dataclass
class Servers:
    """A stand-in for the wire: who is dead, who was asked, how many waited at once."""

    dead: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    changed: set[str] = field(default_factory=set)

    def connect(self, url: str) -> Any:
        return Client(self, url)

    def is_well(self, url: str) -> bool:
        if url in self.dead:
            raise EngineError("nobody there")
        return url not in self.changed


@dataclass
class Client:
    servers: Servers
    url: str

    async def post(self, path: str, body: dict[str, Any], *, stream: bool = False) -> Reply:
        s = self.servers
        s.waiting[self.url] += 1
        s.most[self.url] = max(s.most[self.url], s.waiting[self.url])
        await asyncio.sleep(0.001)
        s.waiting[self.url] -= 1
        if self.url in s.dead:
            raise EngineError(f"{self.url} is gone")
        s.asked[self.url] += 1
        return Reply({"from": self.url}, 0.001)

    async def aclose(self) -> None:
        pass


async def post_many(client: Balanced, n: int) -> list[Reply]:
    return await asyncio.gather(*(client.post("/x", {}) for _ in range(n)))


def test_requests_are_spread_evenly() -> None:
    servers = Servers()

    async def run() -> None:
        await post_many(Balanced(["a", "b", "c"], servers.connect, servers.is_well), 30)

    asyncio.run(run())
    assert servers.asked == {"a": 10, "b": 10, "c": 10}
    assert set(servers.most.values()) == {10}


def test_a_dead_one_is_left_out_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "CHECK_EVERY_S", 0.005)
    servers = Servers(dead={"b"})

    async def run() -> None:
        client = Balanced(["a", "b"], servers.connect, servers.is_well)
        assert len(await post_many(client, 20)) == 20
        assert servers.asked == {"a": 20}
        servers.dead.clear()
        async with asyncio.timeout(60):
            while not servers.asked["b"]:
                await post_many(client, 2)
        await client.aclose()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_one_that_comes_back_as_another_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "CHECK_EVERY_S", 0.001)
    servers = Servers(dead={"b"}, changed={"b"})

    async def run() -> None:
        client = Balanced(["a", "b"], servers.connect, servers.is_well)
        await post_many(client, 4)
        servers.dead.clear()
        for _ in range(20):
            await post_many(client, 2)
        await client.aclose()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert servers.asked["b"] == 0


def test_the_engine_is_gone_when_all_are() -> None:
    servers = Servers(dead={"a", "b"})

    async def run() -> None:
        client = Balanced(["a", "b"], servers.connect, servers.is_well)
        with pytest.raises(EngineError, match="is gone"):
            await client.post("/x", {})
        with pytest.raises(EngineError, match="no server is left of a, b"):
            await client.post("/x", {})
        await client.aclose()

    asyncio.run(run())


def test_all_must_say_the_same() -> None:
    facts = {"a": {"kv": "fp16"}, "b": {"kv": "fp16"}, "c": {"kv": "q4_0"}}
    assert alike(["a", "b"], facts.__getitem__) == {"kv": "fp16"}
    with pytest.raises(UsageError, match="kv is 'fp16' and 'q4_0'"):
        alike(["a", "b", "c"], facts.__getitem__)


def test_a_list_of_addresses_round_trips() -> None:
    urls = ["http://h:1/v1/", "http://h:2/v1"]
    settings = EngineSettings(base_url=urls, endpoints={})
    assert settings.addresses["none"].urls == ("http://h:1/v1", "http://h:2/v1")
    assert EngineSettings(**settings.model_dump(mode="json")) == settings
    with pytest.raises(ValueError, match="different addresses"):
        EngineSettings(base_url=["http://h:1/v1", "http://h:1/v1"])
