"""What names a cell in everything that is made of observations, rows over all bins included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, NotRequired, TypedDict

from pytest_kvbench.records import FULL_CACHE, SCORE, Cell, format_budget, named_only

ALL_BINS: Final = "all"
"""In place of a bin's index: the row pooled over bins."""

BinKey = int | Literal["all"]


@dataclass(frozen=True)
class CellGroup:
    """The cells that run together: one task, bin, variant and measure, control included."""

    task: str
    bin: int
    variant: str = ""
    measure: str = SCORE

    @property
    def group_id(self) -> str:
        """Readable; the scope by which items stay on one worker."""
        parts = [self.task.replace("/", "-"), f"bin{self.bin}"]
        return "-".join([*parts, *named_only(self.variant, self.measure)])

    @property
    def control_id(self) -> str:
        """The name of its controls: variants whose full cache answers alike share them."""
        return CellGroup(self.task, self.bin).group_id

    @classmethod
    def of(cls, cell: Cell) -> CellGroup:
        """The group of a cell."""
        return cls(cell.task, cell.bin, cell.variant, cell.measure)


class ChainKey(NamedTuple):
    """A ladder of budgets: one policy on one task and bin."""

    task: str
    bin: BinKey
    variant: str
    policy: str
    measure: str = SCORE

    def rung(self, budget: float) -> CellKey:
        """The row of one of its budgets."""
        return CellKey(self.task, self.bin, self.variant, self.policy, budget, self.measure)

    def columns(self) -> Chain:
        """The columns of a row."""
        told: Chain = {
            "task": self.task,
            "bin": self.bin,
            "variant": self.variant,
            "policy": self.policy,
        }
        return told if self.measure == SCORE else {**told, "measure": self.measure}


class Chain(TypedDict):
    """The columns of every row of a ladder of budgets; without a measure it is that of scores."""

    task: str
    bin: BinKey
    variant: str
    policy: str
    measure: NotRequired[str]


class Columns(Chain):
    """What every row of a cell begins with."""

    budget: float


class CellKey(NamedTuple):
    """What names a row: a cell's columns, in the order every table has them."""

    task: str
    bin: BinKey
    variant: str
    policy: str
    budget: float
    measure: str = SCORE

    @classmethod
    def of(cls, cell: Cell) -> CellKey:
        """The key of a cell of one bin."""
        return cls(cell.task, cell.bin, cell.variant, cell.policy, cell.budget, cell.measure)

    @classmethod
    def of_row(cls, row: Columns) -> CellKey:
        """The key of a row that has the columns; its bin may be text.

        Its variant and its measure may be absent.
        """
        bin_: BinKey = ALL_BINS if row["bin"] == ALL_BINS else int(row["bin"])
        variant, measure = row.get("variant") or "", row.get("measure") or SCORE
        return cls(row["task"], bin_, variant, row["policy"], row["budget"], measure)

    @property
    def is_control(self) -> bool:
        """Whether it is the full cache's."""
        return self.policy == FULL_CACHE

    @property
    def is_pooled(self) -> bool:
        """Whether it is a row over all bins."""
        return self.bin == ALL_BINS

    @property
    def pooled(self) -> CellKey:
        """The row over all bins that this cell belongs to."""
        return self._replace(bin=ALL_BINS)

    @property
    def chain(self) -> ChainKey:
        """The ladder of budgets this cell is a rung of."""
        return ChainKey(self.task, self.bin, self.variant, self.policy, self.measure)

    @property
    def item_id(self) -> str:
        """As `Cell.item_id`; of a row over all bins `niah-single-all-snapkv-0.20`."""
        if self.cell is not None:
            return self.cell.item_id
        parts = [self.task.replace("/", "-"), ALL_BINS, self.policy, format_budget(self.budget)]
        return "-".join([*parts, *named_only(self.variant, self.measure)])

    @property
    def cell(self) -> Cell | None:
        """The cell, None for a row over all bins."""
        if self.bin == ALL_BINS:
            return None
        return Cell(self.task, self.bin, self.policy, self.budget, self.variant, self.measure)

    @property
    def group(self) -> CellGroup | None:
        """What it shares with its control, None for a row over all bins."""
        return CellGroup.of(self.cell) if self.cell else None

    def columns(self) -> Columns:
        """The columns of a row."""
        return {**self.chain.columns(), "budget": self.budget}
