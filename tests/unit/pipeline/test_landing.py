"""What lands together is stored together; nobody is told of it before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pytest_kvbench.errors import StoreError
from pytest_kvbench.pipeline.landing import Landing
from pytest_kvbench.records import Answer, Failure, Telemetry


class Kept:
    """A store that notes its transactions."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.failures: list[list[str]] = []
        self.full = False

    def save_answers(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        if self.full:
            raise StoreError("the disk is full", "free it")
        self.answers.append([answer.key for answer in answers])
        return answers

    def save_failures(self, failures: Sequence[Failure]) -> None:
        self.failures.append([failure.key for failure in failures])


def answer(key: str) -> Answer:
    return Answer(key, "text", "stop", Telemetry(1.0))


def test_what_comes_within_a_moment_is_one_transaction() -> None:
    store = Kept()

    async def land() -> list[Sequence[Answer]]:
        landing = Landing(store)  # type: ignore[arg-type]
        some = [[answer("a"), answer("b")], [Failure("c", "TIMEOUT", "late")], [answer("d")]]
        landed = await asyncio.gather(*map(landing.land, some))
        await landing.land([answer("e")])
        return landed

    landed = asyncio.run(land())
    assert (store.answers, store.failures) == ([["a", "b", "d"], ["e"]], [["c"]])
    assert [[one.key for one in some] for some in landed] == [["a", "b"], [], ["d"]]


def test_nobody_is_told_before_it_is_durable() -> None:
    store = Kept()

    async def land() -> None:
        landing = Landing(store)  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(landing.land([answer("a")]))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not store.answers
        landing.flush()  # as a run that is stopped does
        assert store.answers == [["a"]]
        assert [one.key for one in await waiting] == ["a"]

    asyncio.run(land())


def test_who_stops_waiting_loses_nothing() -> None:
    store = Kept()

    async def land() -> None:
        landing = Landing(store)  # type: ignore[arg-type]
        gone, other = (asyncio.ensure_future(landing.land([answer(key)])) for key in "ab")
        await asyncio.sleep(0)
        gone.cancel()
        await other

    asyncio.run(land())
    assert store.answers == [["a", "b"]]


def test_an_error_is_everybodys() -> None:
    store = Kept()
    store.full = True

    async def land() -> list[object]:
        landing = Landing(store)  # type: ignore[arg-type]
        some = [landing.land([answer(key)]) for key in "ab"]
        return await asyncio.gather(*some, return_exceptions=True)

    assert [type(error) for error in asyncio.run(land())] == [StoreError, StoreError]


def test_nothing_to_store_is_no_transaction() -> None:
    store = Kept()
    Landing(store).flush()  # type: ignore[arg-type]
    assert not store.answers
