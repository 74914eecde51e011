"""What is alike is held once, and stands at every place where it was."""

from __future__ import annotations

from pytest_kvbench.alike import Column, Filling


def test_what_is_alike_is_held_once() -> None:
    filling = Filling[str]()
    filling.add("aba", "aba")
    filling.add(["B"], ["b"])
    column = filling.column
    assert [*column] == ["a", "b", "a", "b"]
    assert (column.values, len(column), column[2]) == (["a", "b"], 4, "a")
    assert [*column.taken([3, 0])] == ["b", "a"]
    assert [*column.with_values([1, 2])] == [1, 2, 1, 2]
    assert [*Column.joined([column.taken([1]), column])] == ["b", "a", "b", "a", "b"]
