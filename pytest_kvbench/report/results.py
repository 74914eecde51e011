"""The summary, indexed: which rows there are, and which belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pytest_kvbench.cellkey import ALL_BINS, BinKey, CellKey, Chain, Columns
from pytest_kvbench.distances import Moved
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.records import FULL_CACHE, SCORE
from pytest_kvbench.report import text
from pytest_kvbench.report.series import Ladder, Series, ladder_of
from pytest_kvbench.rows import (
    ArmRow,
    BinRow,
    BinStats,
    CellRow,
    Certificate,
    Efficiency,
    FlipRow,
    Integrity,
    MissingRow,
    Provenance,
    Summary,
    TaskRow,
    TransitionRow,
)

DECIDED = ("holds", "breaks")
MARGIN = 0.10
ALPHA = 0.05
NOTHING_COUNTED: Integrity = {
    "requests": 0,
    "answers": 0,
    "failures": {},
    "labels": {},
    "placebos": [],
    "notes": [],
    "aa": None,
}
NOTHING_MOVED: Moved = {"bands": [], "most": []}

ColumnsT = TypeVar("ColumnsT", bound=Columns)
ChainT = TypeVar("ChainT", bound=Chain)


def measure_of(row: Chain) -> str:
    """What a row is about: scores where it does not say."""
    return row.get("measure", SCORE)


@dataclass(frozen=True)
class Results:
    """A summary (DESIGN 7), `of` one measure, the first by default. Absent parts read as empty."""

    summary: Summary
    of: str = ""

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """What was judged, scores first."""
        rows = (*self.summary.get("cells", ()), *self.summary.get("missing", ()))
        return tuple(dict.fromkeys(map(measure_of, rows))) or (SCORE,)

    @property
    def measure(self) -> str:
        """The one that rows are of."""
        return self.of or self.measures[0]

    @property
    def others(self) -> tuple[Results, ...]:
        """The same summary by its other measures that have rows."""
        every = (Results(self.summary, name) for name in self.measures if name != self.measure)
        return tuple(one for one in every if one.cells)

    def _mine(self, rows: Iterable[ChainT]) -> list[ChainT]:
        return [row for row in rows if measure_of(row) == self.measure]

    @property
    def group(self) -> str:
        """The experiment's name; empty where scores alone were judged."""
        return self.summary.get("group", "")

    @property
    def is_partial(self) -> bool:
        """Whether cells of the plan are missing."""
        return self.summary.get("partial", False)

    @property
    def declared(self) -> Snapshot:
        """The experiment."""
        return Snapshot(self.summary.get("experiment", {}))

    @cached_property
    def cells(self) -> Sequence[CellRow]:
        """Every cell, controls and rows over bins too."""
        return self._mine(self.summary.get("cells", ()))

    @property
    def transitions(self) -> Sequence[TransitionRow]:
        """A row per ladder of budgets."""
        return self._mine(self.summary.get("transitions", ()))

    @property
    def sensitivity(self) -> Sequence[CellRow]:
        """The rows over all bins of arms that are known to be bad."""
        return self._mine(self.summary.get("sensitivity", ()))

    @property
    def certificates(self) -> Sequence[Certificate]:
        """What is certified of every arm; empty where that was not asked for."""
        return self._mine(self.summary.get("certificates", ()))

    @property
    def bin_stats(self) -> Sequence[BinStats]:
        """What every arm did on every bin."""
        return self._mine(self.summary.get("bin_stats", ()))

    @property
    def tasks(self) -> Sequence[TaskRow]:
        """What was asked."""
        return self.summary.get("tasks", ())

    @property
    def moved(self) -> Moved:
        """How far distributions moved, by position."""
        return self.summary.get("moved", NOTHING_MOVED)

    @property
    def bins(self) -> Sequence[BinRow]:
        """The bins of every task, shortest prompts first."""
        return self.summary.get("bins", ())

    @property
    def missing(self) -> Sequence[MissingRow]:
        """The plan's cells without all their answers."""
        return self.summary.get("missing", ())

    @property
    def flips(self) -> Sequence[FlipRow]:
        """A few answers that changed."""
        return self.summary.get("flips", ())

    @property
    def integrity(self) -> Integrity:
        """Whether results can be believed."""
        return self.summary.get("integrity", NOTHING_COUNTED)

    @property
    def efficiency(self) -> Efficiency | None:
        """What the experiment cost; None where scores alone were judged."""
        return self.summary.get("efficiency")

    @property
    def arms(self) -> list[ArmRow]:
        """What each arm cost: the control, policies as listed, budget down."""
        arms = self.efficiency["arms"] if self.efficiency else []
        return sorted(arms, key=lambda arm: (self._rank(arm["policy"]), -arm["budget"]))

    @property
    def provenance(self) -> Provenance | None:
        """Where results come from; None where scores alone were judged."""
        return self.summary.get("provenance")

    @cached_property
    def margin(self) -> float:
        """The loss that is acceptable, in score units; of a share, that of a control of 1."""
        if self.measure != SCORE:
            return float(self.declared.get("gate.divergence.margin") or MARGIN)
        margin = self.declared.get("gate.margin") or MARGIN
        return float(margin if self.retain is None else 1 - self.retain)

    @property
    def retain(self) -> float | None:
        """The share of the control's score to keep; None where the margin is a loss."""
        share: float | None = self.declared.get("gate.margin.retain")
        return share if self.measure == SCORE else None

    @cached_property
    def alpha(self) -> float:
        """Two-sided error rate."""
        return float(self.declared.get("gate.alpha") or ALPHA)

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """In the order of first appearance."""
        return tuple(self._of_series)

    @cached_property
    def policies(self) -> tuple[str, ...]:
        """The treatments: those of the experiment in its order, then whatever else is there."""
        present = dict.fromkeys(c["policy"] for c in self.treated())
        planned = self.declared.get("kv.policies") or ()
        return tuple(
            [p for p in planned if p in present] + [p for p in present if p not in planned]
        )

    def treated(self, series: Series | None = None, key: BinKey | None = None) -> Iterator[CellRow]:
        """Cells that are not controls, of one series and of one bin if asked."""
        for cell in self.cells if series is None else self._of_series.get(series, ()):
            if cell["policy"] != FULL_CACHE and key in (None, cell["bin"]):
                yield cell

    def of_policy(self, series: Series, key: BinKey, policy: str) -> list[CellRow]:
        """The cells of one ladder, largest budget first."""
        return self._ladders.get((series, key, policy), [])

    @cached_property
    def _of_series(self) -> Mapping[Series, list[CellRow]]:
        found = defaultdict[Series, list[CellRow]](list)
        for cell in self.cells:
            found[Series.of(cell)].append(cell)
        return found

    @cached_property
    def _ladders(self) -> Mapping[Ladder, list[CellRow]]:
        found = defaultdict[Ladder, list[CellRow]](list)
        for cell in sorted(self.treated(), key=lambda c: -c["budget"]):
            found[ladder_of(cell)].append(cell)
        return found

    @cached_property
    def _index(self) -> dict[CellKey, CellRow]:
        return {CellKey.of_row(c): c for c in self.cells}

    def cell(self, series: Series, key: BinKey, policy: str, budget: float) -> CellRow | None:
        """One cell, if it is there."""
        place = CellKey(series.task, key, series.variant, policy, budget, self.measure)
        return self._index.get(place)

    def bins_of(self, series: Series) -> tuple[int, ...]:
        """Indices of the bins of a series, shortest prompts first."""
        keys = {c["bin"] for c in self._of_series.get(series, ())}
        return tuple(sorted(key for key in keys if key != ALL_BINS))

    def headline(self, series: Series) -> BinKey:
        """The rows that answer for the whole series: the pooled ones, or those of its only bin."""
        pooled, bins = any(self.treated(series, ALL_BINS)), self.bins_of(series)
        return ALL_BINS if pooled or len(bins) != 1 else bins[0]

    def headline_cells(self, series: Series) -> list[CellRow]:
        """Treated cells of the headline rows, by policy, largest budget first."""
        key = self.headline(series)
        return [c for p in self.policies for c in self.of_policy(series, key, p)]

    def budgets(self, cells: Iterable[CellRow]) -> tuple[float, ...]:
        """The distinct budgets, largest first."""
        return tuple(sorted({c["budget"] for c in cells}, reverse=True))

    def transition(self, series: Series, key: BinKey, policy: str) -> TransitionRow | None:
        """The bracket of one ladder."""
        return self._brackets.get((series, key, policy))

    @cached_property
    def _brackets(self) -> Mapping[Ladder, TransitionRow]:
        return {ladder_of(row): row for row in self.transitions}

    def stats(self, series: Series, policy: str) -> list[BinStats]:
        """What one policy did, by bin, then budget down."""
        rows = (r for r in self.bin_stats if Series.of(r) == series and r["policy"] == policy)
        return self.ordered(r for r in rows if r["bin"] != ALL_BINS)

    def ordered(self, rows: Iterable[ColumnsT]) -> list[ColumnsT]:
        """Rows as people look for them: by `place`, then budget down."""
        return sorted(rows, key=lambda row: (*self.place(row), -row["budget"]))

    def place(self, row: Chain) -> tuple[bool, int, int]:
        """What rows are ordered by: bin, those over bins last; control first, then as listed."""
        bin_ = 0 if row["bin"] == ALL_BINS else row["bin"]
        return row["bin"] == ALL_BINS, bin_, self._rank(row["policy"])

    def _rank(self, policy: str) -> int:
        order = (FULL_CACHE, *self.policies)
        return order.index(policy) if policy in order else len(order)

    def bin_row(self, series: Series, index: int) -> BinRow | None:
        """Edges and n of a bin, None where the summary has none."""
        for row in self.bins:
            if (row["task"], row["bin"]) == (series.task, index):
                return row
        return None

    def bin_ticks(self, series: Series) -> list[str]:
        """One axis label a bin: edges in tokens, and n."""
        return [_tick(i, self.bin_row(series, i)) for i in self.bins_of(series)]

    @cached_property
    def unmeasured(self) -> list[CellRow]:
        """Cells of single bins whose verdict is `not-measured`."""
        return [cell for cell in self._single if cell["verdict"] == "not-measured"]

    @property
    def _single(self) -> Iterator[CellRow]:
        return (cell for cell in self.treated() if cell["bin"] != ALL_BINS)

    @cached_property
    def planned(self) -> int:
        """m: the treated cells of the plan, measured or missing."""
        missing = (row for row in self._mine(self.missing) if row["policy"] != FULL_CACHE)
        return len({CellKey.of_row(row) for row in (*self._single, *missing)})

    @cached_property
    def rows_over_bins(self) -> int:
        """How many headline rows there are to choose from, measured or missing."""
        missing = (row for row in self._mine(self.missing) if row["policy"] != FULL_CACHE)
        return len({CellKey.of_row(row).pooled for row in (*self.treated(), *missing)})


def final(cell: CellRow) -> str:
    """The verdict that counts: after the correction where there is one."""
    return str(cell["verdict_holm"] or cell["verdict"])


def doubt(cell: CellRow) -> str:
    """Why a verdict may be one on a cache that was not touched; empty where that is proven.

    `placebo?`, or of a decided verdict `unverified` or `simulated`.
    """
    if any(flag.startswith("placebo:") for flag in cell["flags"]):
        return "placebo?"
    decided = final(cell) in DECIDED or cell["verdict"] in DECIDED
    return cell["proof"] if decided and cell["proof"] in ("unverified", "simulated") else ""


def qualified(cell: CellRow, word: str) -> str:
    """A verdict on a cell with what makes it doubtful: `holds`, `holds (unverified)`."""
    why = doubt(cell)
    return f"{word} ({why})" if why and word in DECIDED else word


def _tick(index: int, row: BinRow | None) -> str:
    return f"{text.edges(row)}\nn={row['n']}" if row else f"bin {index}"
