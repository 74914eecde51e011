"""The summary, indexed: which rows there are, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_kvbench.cellkey import ALL_BINS, BinKey, CellKey
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import text

Row = Mapping[str, Any]
DECIDED = ("holds", "breaks")


@dataclass(frozen=True)
class Series:
    """What has its own curve: a task, and the variant where an experiment has several."""

    task: str
    variant: str = ""

    @property
    def label(self) -> str:
        """`niah/single`, or `niah/single [terse]`."""
        return f"{self.task} [{self.variant}]" if self.variant else self.task

    @property
    def slug(self) -> str:
        """The label as part of a file name."""
        return "".join(c if c.isalnum() else "-" for c in self.label).strip("-")

    def owns(self, row: Row) -> bool:
        """Whether a row of the summary belongs here."""
        return (row["task"], row.get("variant") or "") == (self.task, self.variant)


@dataclass(frozen=True)
class Results:
    """A summary (DESIGN 7) to ask questions of. Absent parts read as empty."""

    summary: Row

    def part(self, key: str) -> Row:
        """A mapping of the summary, empty where it is absent."""
        return self.summary.get(key) or {}

    def rows(self, key: str) -> Sequence[Row]:
        """A list of the summary, empty where it is absent."""
        return self.summary.get(key) or ()

    @cached_property
    def gate(self) -> Row:
        """Margin, alpha, max_lost and drop_threshold: the experiment's, DESIGN's defaults else."""
        defaults = {"margin": 0.10, "alpha": 0.05, "max_lost": 0.05, "drop_threshold": 0.15}
        return {**defaults, **(self.part("experiment").get("gate") or {})}

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """In the order of first appearance."""
        seen = (Series(c["task"], c.get("variant") or "") for c in self.rows("cells"))
        return tuple(dict.fromkeys(seen))

    @cached_property
    def policies(self) -> tuple[str, ...]:
        """The treatments: those of the experiment in its order, then whatever else was seen."""
        seen = dict.fromkeys(c["policy"] for c in self.treated())
        planned = (self.part("experiment").get("kv") or {}).get("policies") or ()
        return tuple([p for p in planned if p in seen] + [p for p in seen if p not in planned])

    def treated(self, series: Series | None = None, key: BinKey | None = None) -> Iterator[Row]:
        """Cells that are not controls, of one series and of one bin if asked."""
        for cell in self.rows("cells"):
            if cell["policy"] != FULL_CACHE and _fits(cell, series, key):
                yield cell

    def of_policy(self, series: Series, key: BinKey, policy: str) -> list[Row]:
        """The cells of one chain, largest budget first."""
        chain = [c for c in self.treated(series, key) if c["policy"] == policy]
        return sorted(chain, key=lambda c: -c["budget"])

    @cached_property
    def _index(self) -> dict[CellKey, Row]:
        return {CellKey.of_row(c): c for c in self.rows("cells")}

    def cell(self, series: Series, key: BinKey, policy: str, budget: float) -> Row | None:
        """One cell, if it is there."""
        return self._index.get(CellKey(series.task, key, series.variant, policy, budget))

    def bins(self, series: Series) -> tuple[int, ...]:
        """Indices of the bins of a series, shortest prompts first."""
        own = {c["bin"] for c in self.rows("cells") if series.owns(c) and c["bin"] != ALL_BINS}
        return tuple(sorted(own))

    def headline(self, series: Series) -> BinKey:
        """The rows that answer for the whole series: the pooled ones, or those of its only bin."""
        pooled = any(True for _ in self.treated(series, ALL_BINS))
        bins = self.bins(series)
        return ALL_BINS if pooled or len(bins) != 1 else bins[0]

    def headline_cells(self, series: Series) -> list[Row]:
        """Treated cells of the headline rows, by policy, largest budget first."""
        key = self.headline(series)
        return [c for p in self.policies for c in self.of_policy(series, key, p)]

    def budgets(self, cells: Iterable[Row]) -> tuple[float, ...]:
        """The distinct budgets, largest first."""
        return tuple(sorted({c["budget"] for c in cells}, reverse=True))

    def transition(self, series: Series, key: BinKey, policy: str) -> Row | None:
        """The bracket of one chain."""
        for row in self.rows("transitions"):
            if series.owns(row) and (row["bin"], row["policy"]) == (key, policy):
                return row
        return None

    def stats(self, series: Series, policy: str) -> list[Row]:
        """bin_stats of one policy over bins, by bin, then budget down."""
        rows = (r for r in self.rows("bin_stats") if series.owns(r) and r["policy"] == policy)
        return self.ordered(r for r in rows if r["bin"] != ALL_BINS)

    def ordered(self, rows: Iterable[Row]) -> list[Row]:
        """Rows as people look for them: by bin, control first, policies as listed, budget down."""
        order = {policy: i for i, policy in enumerate((FULL_CACHE, *self.policies))}
        return sorted(
            rows,
            key=lambda r: (
                r.get("bin", ALL_BINS) == ALL_BINS,
                r.get("bin", 0) if r.get("bin") != ALL_BINS else 0,
                order.get(r["policy"], len(order)),
                -r.get("budget", 0),
            ),
        )

    def bin_row(self, series: Series, index: int) -> Row:
        """Edges and n of a bin, empty where the summary has none."""
        for row in self.rows("bins"):
            if (row["task"], row["bin"]) == (series.task, index):
                return row
        return {}

    def bin_ticks(self, series: Series) -> list[str]:
        """One axis label a bin: edges in tokens, and n."""
        return [_tick(i, self.bin_row(series, i)) for i in self.bins(series)]

    @cached_property
    def unmeasured(self) -> list[Row]:
        """Cells of single bins whose verdict is `not-measured`."""
        return [cell for cell in self._single if cell["verdict"] == "not-measured"]

    @property
    def _single(self) -> Iterator[Row]:
        return (cell for cell in self.treated() if cell["bin"] != ALL_BINS)

    @cached_property
    def planned(self) -> int:
        """m: the treated cells of the plan, measured or missing."""
        rows = [*self._single]
        rows += [r for r in self.rows("missing") if r["policy"] != FULL_CACHE]
        return len({CellKey.of_row(row) for row in rows})


def final(cell: Row) -> str:
    """The verdict that counts: after the correction where there is one."""
    return str(cell.get("verdict_holm") or cell["verdict"])


def doubt(cell: Row) -> str:
    """Why a verdict may be one on a cache that was not touched; empty where that is proven."""
    if any(flag.startswith("placebo:") for flag in cell.get("flags") or ()):
        return "placebo?"
    decided = final(cell) in DECIDED or cell["verdict"] in DECIDED
    return "unverified" if decided and cell.get("proof") == "unverified" else ""


def qualified(cell: Row, word: str) -> str:
    """A verdict on a cell with what makes it doubtful: `holds`, `holds (unverified)`."""
    why = doubt(cell)
    return f"{word} ({why})" if why and word in DECIDED else word


def ends(row: Row | None) -> tuple[float | None, float | None]:
    """(b_safe, b_broken) of a ladder by the verdicts that count, the corrected ones."""
    row = row or {}
    return row.get("b_safe_adjusted"), row.get("b_broken_adjusted")


def ends_alone(row: Row | None) -> tuple[float | None, float | None]:
    """(b_safe, b_broken) of a ladder tested on its own, before the correction."""
    row = row or {}
    return row.get("b_safe"), row.get("b_broken")


def bracket(safe: float | None, broken: float | None) -> str:
    """Where quality is lost, as briefly as can be said: `(0.20, 0.50]`, `below 0.20`."""
    if safe is not None and broken is not None:
        return f"({text.budget(broken)}, {text.budget(safe)}]"
    if safe is not None:
        return f"below {text.budget(safe)}"
    return "not found" if broken is None else f"above {text.budget(broken)}"


def _fits(cell: Row, series: Series | None, key: BinKey | None) -> bool:
    return (series is None or series.owns(cell)) and key in (None, cell["bin"])


def _tick(index: int, row: Row) -> str:
    return f"{text.edges(row)}\nn={row['n']}" if row else f"bin {index}"
