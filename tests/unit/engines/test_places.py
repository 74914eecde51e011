"""Places of a run: never more taken than there are, by whomever, and all who wait get one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.engines.places import Crowd, SharedPlaces, in_use

ANOTHER = """
import asyncio, sys, time
from pathlib import Path
from pytest_kvbench.engines.places import Crowd

async def hold(count):
    places = Crowd(2, Path(sys.argv[1])).places(int(sys.argv[2]), "engine")
    for _ in range(int(sys.argv[3])):
        await places.__aenter__()
    print("held", flush=True)
    await asyncio.sleep(60)

asyncio.run(hold(2))
"""


async def most_inside(all_places: list[SharedPlaces], visits: list[int], given_up: set[int]) -> int:
    """How many were inside at once, where each visit is to one of the places."""
    inside = most = 0

    async def visit(number: int, which: int) -> None:
        nonlocal inside, most
        async with all_places[which % len(all_places)]:
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0.001 * (number % 3))
            finally:
                inside -= 1

    tasks = [asyncio.ensure_future(visit(*one)) for one in enumerate(visits)]
    await asyncio.sleep(0)
    for number in given_up & set(range(len(tasks))):
        tasks[number].cancel()
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks, return_exceptions=True)
    return most


@settings(max_examples=30)
@given(
    count=st.integers(1, 4),
    share=st.integers(1, 6),
    visits=st.lists(st.integers(0, 2), max_size=12),
    given_up=st.sets(st.integers(0, 11), max_size=4),
)
def test_no_more_are_inside_than_there_are_places(
    count: int, share: int, visits: list[int], given_up: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine.places"
        several = [SharedPlaces(file, count, max(1, count // share)) for _ in range(3)]
        assert asyncio.run(most_inside(several, visits, given_up)) <= count
        # Whoever gave up has left nothing behind.
        assert asyncio.run(most_inside(several, [0] * count, set())) == count


def test_another_process_has_what_it_holds_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ANOTHER, str(tmp_path), "3", "2"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    async def act() -> None:
        places = Crowd(2, tmp_path).places(3, "engine")
        await asyncio.wait_for(places.__aenter__(), 30)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(places.__aenter__(), 0.1)
        other.kill()
        for _ in range(2):
            await asyncio.wait_for(places.__aenter__(), 30)

    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert in_use(tmp_path)
        asyncio.run(act())
    finally:
        other.kill()
        other.communicate(timeout=20)


def test_who_meets_nobody_keeps_to_a_part() -> None:
    assert [Crowd(share).most(4) for share in (1, 3, 4, 8)] == [4, 1, 1, 1]
    assert Crowd(3, Path("somewhere")).most(4) == 4
