"""One key names a cell in every table, pooled rows included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.cellkey import ALL_BINS, CellGroup, CellKey
from pytest_kvbench.records import Cell

NAMES, BUDGETS = st.text(min_size=1, max_size=5), st.floats(0.01, 1.0)
CELLS = st.builds(Cell, NAMES, st.integers(0, 9), NAMES, BUDGETS, st.text(max_size=5))


@given(CELLS)
def test_a_key_leads_back_to_its_cell_from_any_row(cell: Cell) -> None:
    key = CellKey.of(cell)
    assert CellKey.of_row({**key.columns(), "delta": 0.5}) == CellKey.of_row(vars(cell)) == key
    assert CellKey.of_row({**key.columns(), "bin": str(cell.bin)}) == key
    assert key.cell == cell
    assert key.group == CellGroup.of(cell) == CellGroup.of(cell.control)
    assert key.chain.rung(cell.budget) == key
    assert key.is_control == cell.is_control


@given(CELLS)
def test_a_row_over_all_bins_is_no_cell(cell: Cell) -> None:
    pooled = CellKey.of(cell).pooled
    assert (pooled.bin, pooled.cell, pooled.group) == (ALL_BINS, None, None)
    assert pooled.is_pooled
    assert pooled == pooled.pooled
    assert pooled.chain._replace(bin=cell.bin) == CellKey.of(cell).chain


def test_a_row_of_before_variants_is_that_without_a_name() -> None:
    row = {"task": "t", "bin": 0, "policy": "snapkv", "budget": 0.5, "variant": None}
    assert CellKey.of_row(row).variant == ""
