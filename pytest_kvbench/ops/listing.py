"""Tables over groups as lines for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.ops.aggregate import records
from pytest_kvbench.ops.asked import asked
from pytest_kvbench.ops.best import arm_label
from pytest_kvbench.pipeline.compare import Change, Comparison
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import text

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

MOST_ROWS = 30
NOTE_WIDTH = 120
MOST_KEYS = 8
"""Of a comparison: the rest is in --json."""


@dataclass(frozen=True)
class _Column:
    """A heading, the most characters, and how a row fills it; numbers stand on the right.

    `whole`: what tells rows apart is never cut, whatever the width.
    """

    title: str
    width: int
    show: Callable[[Row], str]
    right: bool = False
    whole: bool = False

    def wide_enough(self, rows: Sequence[Row]) -> _Column:
        """As wide as its longest row, where it must be whole."""
        longest = max((len(text.plain(self.show(row))) for row in rows), default=0)
        return replace(self, width=max(self.width, longest)) if self.whole else self

    def fit(self, shown: str) -> str:
        shown = text.fit(text.plain(shown), self.width)
        return shown.rjust(self.width) if self.right else shown.ljust(self.width)


def catalog_lines(rows: pd.DataFrame) -> list[str]:
    """One line a run."""
    columns = (
        _Column("started (UTC)", 16, lambda r: str(r["started_at"])[:16].replace("T", " ")),
        _Column("group", 24, lambda r: r["group"]),
        _Column("model", 16, lambda r: r["model"]),
        _Column("tasks", 14, lambda r: r["tasks"]),
        _Column("answers", 7, lambda r: text.whole(r["answers"]), right=True),
        _Column("H/B/?/-", 14, _verdicts),
    )
    return [*_block(columns, records(rows)), "H holds  B breaks  ? undetermined  - not measured"]


def _verdicts(row: Row) -> str:
    if _missing(row["holds"]):
        return ""
    names = ("holds", "breaks", "undetermined", "not_measured")
    return "/".join(f"{row[name]:.0f}" for name in names)


def best_lines(rows: pd.DataFrame) -> list[str]:
    """A block a model, task and margin: a line over all lengths, and one at each."""
    columns = (
        _Column("length", 16, lambda r: r["length"]),
        _Column("smallest that holds", 24, _arm, whole=True),
        _Column("pairs", 7, lambda r: text.whole(_value(r["n"])), right=True),
        _Column("control", 7, lambda r: text.score(_value(r["control_mean"])), right=True),
        _Column("delta", 21, lambda r: _difference(r, "delta") if _value(r["n"]) else ""),
        _Column("keeps", 5, lambda r: text.score(_value(r["achieved"])), right=True),
        _Column("bytes", 9, lambda r: text.size(_value(r["kept_bytes_mean"])), right=True),
        _Column("of", 4, lambda r: text.whole(r["chosen_from"]), right=True),
        _Column("proof", 18, lambda r: _or(r["doubt"], "") or _or(r["proof"], "")),
    )
    blocks: dict[str, list[Row]] = {}
    for row in records(rows):
        blocks.setdefault(_recipe(row, rows), []).append(row)
    lines: list[str] = []
    for head, block in blocks.items():
        lines += [head, *(f"  {line}" for line in _block(columns, block))]
        notes = dict.fromkeys(note for row in block for note in row["notes"])
        lines += [line for note in notes for line in _note(text.plain(note))]
    return [*lines, *_error(rows)]


def _note(note: str) -> list[str]:
    return textwrap.wrap(
        f"! {note}", NOTE_WIDTH, initial_indent="  ", subsequent_indent="    ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _block(columns: Sequence[_Column], rows: Sequence[Row]) -> Iterator[str]:
    columns = [column.wide_enough(rows) for column in columns]
    yield "  ".join(column.fit(column.title) for column in columns).rstrip()
    for row in rows:
        yield "  ".join(column.fit(str(column.show(row))) for column in columns).rstrip()


def _arm(row: Row) -> str:
    return "none shown" if _missing(row["policy"]) else arm_label(row)


def _recipe(row: Row, rows: pd.DataFrame) -> str:
    """What a block of lines is about, whole: `model  task (variant terse)  margin 0.10`."""
    retained = _value(row["retain"])
    margin = f"margin {row['margin']:.2f}" if retained is None else f"retain {retained:g}"
    marks = ", ".join(asked(row, rows))
    task = f"{row['task']} ({marks})" if marks else str(row["task"])
    return "  ".join(map(text.plain, (str(row["model"]), task, margin)))


def _error(rows: pd.DataFrame) -> Iterator[str]:
    """What a choice among many costs in certainty."""
    if len(rows):
        yield (
            "each line: all groups that asked alike, together; chosen from so many arms (of). What "
            "it names loses the"
        )
        yield (
            f"margin in at most {text.percent(rows['error'].max())} of cases (Holm over them), and "
            "delta's interval holds for all of them together"
        )


def effect_lines(rows: pd.DataFrame) -> list[str]:
    """One line an arm against the control, then one a step of a dial; the largest where many."""
    if not len(rows):
        return ["nothing was measured beside its control, and no dial took two values"]
    columns = (
        _Column("dial", 10, lambda r: r["dial"], whole=True),
        _Column("model", 12, lambda r: r["model"], whole=True),
        _Column("task", 18, lambda r: r["task"], whole=True),
        _Column("length", 14, lambda r: r["length"]),
        _Column("at", 18, lambda r: r["at"], whole=True),
        _Column("from", 18, lambda r: str(r["from"]), whole=True),
        _Column("to", 24, lambda r: str(r["to"]), whole=True),
        _Column("pairs", 6, lambda r: text.whole(r["n"]), right=True),
        _Column("effect", 21, lambda r: _difference(r, "effect")),
    )
    first = rows["dial"] == "control"
    dials = rows[~first]
    largest = dials.loc[dials["effect"].abs().sort_values(ascending=False).index[:MOST_ROWS]]
    shown = [*records(rows[first]), *records(dials.loc[sorted(largest.index)])]
    more = len(dials) - len(largest)
    left = [f"... {more:,} smaller effects of dials are in --csv"] if more else []
    return [*_block(columns, shown), *left]


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN, without importing numpy


def _value(value: Any) -> Any:
    return None if _missing(value) else value


def _difference(row: Row, delta: str) -> str:
    low, high = _value(row["ci_low"]), _value(row["ci_high"])
    return text.difference({"delta": _value(row[delta]), "ci_low": low, "ci_high": high})


def _or(value: Any, instead: str) -> str:
    return instead if _missing(value) else str(value)


# -- a comparison ------------------------------------------------------------------------------


def comparison_lines(result: Comparison, width: int = 100) -> list[str]:
    """For a terminal: what was compared, rows over bins and rows that changed, and the outcome."""
    moved = [c for c in result.changes if c.change or c.new_break or c.fixed_break]
    still = [c for c in result.changes if c not in moved]
    pooled = [c for c in still if c.bin == ALL_BINS]
    shown = [*sorted(moved, key=lambda c: not c.regression), *(pooled or still)]
    more = len(shown) - MOST_ROWS
    lines = [
        f"{result.now} against {result.base}: {hints.count(len(result.changes), 'row')} compared, "
        f"{_pairing(result)}",
        *_differing(result),
        f"{'cell':34} {'base':>5} {'now':>5}  {'delta':>5} {'interval':16} verdict",
        *(_change_row(change) for change in shown[:MOST_ROWS]),
        *([f"... {hints.count(more, 'more row')} in --json"] if more > 0 else []),
        *_unmatched("base", result.only_base),
        *_unmatched("now", result.only_now),
        *_uncompared(result),
        _outcome(result),
    ]
    return [text.fit(line, width).rstrip() for line in lines]


def _pairing(result: Comparison) -> str:
    paired = sum(change.paired for change in result.changes)
    if paired == len(result.changes):
        return "paired by example"
    return f"{paired} paired by example, {len(result.changes) - paired} as two samples"


def _differing(result: Comparison) -> Iterator[str]:
    for former, later in result.renamed.items():
        yield f"  policy {former} is compared with {later}"
    shown = list(result.differs.items())[:MOST_KEYS]
    yield from (f"  {key}: {old} -> {new}" for key, (old, new) in shown)
    if len(result.differs) > MOST_KEYS:
        yield f"  and {hints.count(len(result.differs) - MOST_KEYS, 'more key')}"


def _change_row(change: Change) -> str:
    variant = f" [{change.variant}]" if change.variant else ""
    arm = "control" if change.policy == FULL_CACHE else f"{change.policy} "
    budget = "" if change.policy == FULL_CACHE else text.budget(change.budget)
    cell = f"{change.task}{variant} bin {change.bin} {arm}{budget}"
    e = change.estimate
    words = [change.change.upper(), _both_verdicts(change)]
    return (
        f"{text.fit(cell, 34):34} {change.base:5.2f} {change.now:5.2f}  {e.delta:+.2f} "
        f"[{e.ci_low:+.2f}, {e.ci_high:+.2f}]  {'  '.join(w for w in words if w)}"
    )


def _both_verdicts(change: Change) -> str:
    was, is_ = change.verdict_base, change.verdict_now
    if was == is_ or was is None or is_ is None:
        return was or is_ or ""
    return f"{was} -> {is_}"


def _unmatched(side: str, places: Sequence[CellKey]) -> Iterator[str]:
    if places:
        named = dict.fromkeys(f"{p.task} {p.policy} {p.budget:g}" for p in places)
        shown = ", ".join(list(named)[:3]) + (f" and {len(named) - 3} more" * (len(named) > 3))
        yield f"only in {side}: {hints.count(len(places), 'cell')} ({shown})"


def _uncompared(result: Comparison) -> Iterator[str]:
    for reason in dict.fromkeys(result.uncompared.values()):
        cells = [key for key, why in result.uncompared.items() if why == reason]
        yield f"not compared: {hints.count(len(cells), 'cell')}: {reason}"


def _outcome(result: Comparison) -> str:
    breaks = sum(change.new_break for change in result.changes)
    fixed = sum(change.fixed_break for change in result.changes)
    better = sum(change.change == "better" for change in result.changes)
    shown = f"{breaks} new breaks, {fixed} fixed breaks, {better} better"
    found = len(result.regressions)
    if result.uncompared and not found:
        return f"{shown}, and {hints.count(len(result.uncompared), 'cell')} not compared"
    return f"{shown}: {'no regression' if not found else f'{found} REGRESSIONS'}"
