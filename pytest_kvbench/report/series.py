"""What has its own curve, and the ladders of budgets in it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvbench.cellkey import BinKey, Chain
from pytest_kvbench.rows import CellRow, TransitionRow


@dataclass(frozen=True)
class Series:
    """What has its own curve: a task, and the variant where an experiment has several."""

    task: str
    variant: str = ""

    @classmethod
    def of(cls, row: Chain) -> Series:
        """The series that a row belongs to."""
        return cls(row["task"], row["variant"])

    @property
    def label(self) -> str:
        """`niah/single`, or `niah/single [terse]`."""
        return f"{self.task} [{self.variant}]" if self.variant else self.task

    @property
    def slug(self) -> str:
        """The label as part of a file name."""
        return "".join(c if c.isalnum() else "-" for c in self.label).strip("-")


Ladder = tuple[Series, BinKey, str]
"""A policy on one bin, or over all."""


def ladder_of(row: CellRow | TransitionRow) -> Ladder:
    """The ladder that a row is of."""
    return Series.of(row), row["bin"], row["policy"]
