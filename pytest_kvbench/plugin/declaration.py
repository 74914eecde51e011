"""What one item measures: its experiment, and its cell or an arm over all bins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.pipeline import plan
from pytest_kvbench.records import Cell


@dataclass(frozen=True)
class Declaration:
    """The parameter of one item: its experiment and its cell.

    `over_bins`: the arm of the cell over all bins, which is the first one's.
    """

    declared: Declared
    cell: Cell
    over_bins: bool = False

    @property
    def key(self) -> CellKey:
        """What the item judges."""
        key = CellKey.of(self.cell)
        return key.pooled if self.over_bins else key

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that must be measured for it."""
        if not self.over_bins:
            return (self.cell,)
        bins = range(self.declared.experiment.bins.n)
        return tuple(replace(self.cell, bin=index) for index in bins)

    @property
    def is_whole(self) -> bool:
        """Whether all items of its experiment are measured by one process."""
        return is_whole(self.declared)

    @property
    def scope(self) -> str:
        """The group, and what runs together on one worker: a cell group, or everything."""
        group = self.declared.experiment.group
        cells = f"{group}-{CellGroup.of(self.cell).group_id}"
        return f"{group}/{self.declared.chain or (group if self.is_whole else cells)}"

    @property
    def item_id(self) -> str:
        """The cell's, after the names of its member of a roster and its stage."""
        named = [self.declared.member, self.declared.stage, self.key.item_id]
        return "-".join(filter(None, named))


def declarations(declared: Declared) -> Iterator[Declaration]:
    """What the items of an experiment measure: each cell, then what is certified of each arm."""
    cells = plan.cells(declared.experiment)
    yield from (Declaration(declared, cell) for cell in cells)
    if _certifies(declared):
        for cell in cells:
            if not (cell.bin or cell.is_control):
                yield Declaration(declared, cell, over_bins=True)


def is_whole(declared: Declared) -> bool:
    """Whether one process measures all of an experiment.

    Stages follow one another; and an arm is certified among all others.
    """
    return bool(declared.chain) or _certifies(declared)


def _certifies(declared: Declared) -> bool:
    return declared.experiment.gate.mode == "certify"


def declaration_of(item: pytest.Item) -> Declaration | None:
    """What an item measures; None for foreign items."""
    callspec = getattr(item, "callspec", None)
    parameter = callspec.params.get("cell") if callspec is not None else None
    return parameter if isinstance(parameter, Declaration) else None
