"""What one item measures: its experiment and its cell."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.records import Cell


@dataclass(frozen=True)
class Declaration:
    """The parameter of one item: its experiment and its cell."""

    declared: Declared
    cell: Cell

    @property
    def scope(self) -> str:
        """The group, and what runs together on one worker: a cell group, or all stages."""
        group = self.declared.experiment.group
        cells = f"{group}-{CellGroup.of(self.cell).group_id}"
        return f"{group}/{self.declared.chain or cells}"

    @property
    def item_id(self) -> str:
        """The cell's, after the name of its stage."""
        return "-".join(filter(None, [self.declared.stage, self.cell.item_id]))


def declaration_of(item: pytest.Item) -> Declaration | None:
    """What an item measures; None for foreign items."""
    callspec = getattr(item, "callspec", None)
    parameter = callspec.params.get("cell") if callspec is not None else None
    return parameter if isinstance(parameter, Declaration) else None
