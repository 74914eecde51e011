"""A plan held as columns reads as the requests that it was made of."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.planned import Pair, Plan
from tests.support.groups import make_group


def whole(prepared: Prepared) -> list[Pair]:
    target = plan.Target(prepared.fingerprint, prepared.replicate_offset)
    return [*plan.requests(prepared.experiment, prepared.cells, prepared.manifests, {}, target)]


def test_a_plan_reads_as_what_it_was_made_of(tmp_path: Path) -> None:
    prepared = make_group(tmp_path, bins=3, per_bin=4)
    made = whole(prepared)
    held = prepared.requests()
    assert [*held] == made == [*held]  # a second time too
    assert [vars(request)["key"] for _, request in held] == [r.key for _, r in made]
    assert [*held.keys] == [r.key for _, r in made]
    assert (len(held), held[1:3], held[-1]) == (len(made), made[1:3], made[-1])
    assert [*held.requests[2:5]] == [r for _, r in made[2:5]]
    assert held.requests[0] == made[0][1]


def test_some_cells_of_a_plan_keep_their_order(tmp_path: Path) -> None:
    prepared = make_group(tmp_path, bins=2, per_bin=3)
    cells = [cell for cell in prepared.cells if cell.bin == 1][:2]
    asked = {*plan.asked(prepared.experiment, cells)}
    wanted = [pair for pair in whole(prepared) if pair[0] in asked]
    assert [*prepared.requests(cells)] == wanted


def test_a_request_of_a_plan_costs_a_tenth_of_a_kilobyte(tmp_path: Path) -> None:
    prepared = make_group(tmp_path, bins=1, per_bin=30)
    pairs = whole(prepared)
    tracemalloc.start()
    try:
        held = Plan(pairs * 10)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / len(held) < 100
