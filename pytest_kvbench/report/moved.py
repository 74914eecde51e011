"""What a report says of distributions alone: the noise floor, distances by length and position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.distances import BandRow, MovedRow
from pytest_kvbench.divergence.records import HIGH
from pytest_kvbench.records import FULL_CACHE, SCORE
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Block, Exhibit, Paragraph, Section, Table, Value
from pytest_kvbench.report.caveats import item_of
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import BinStats

TERMS = (
    "Overlap: 1 minus the total variation distance between the next-token distributions of an arm "
    "and of the full cache on the same tokens. KLD: Kullback-Leibler divergence, full cache to "
    "arm, in nats a token. Arms are held against the full cache asked again: the noise floor."
)
BOUNDS = (
    "Servers name the likeliest tokens of each position. What they leave out may be all shared or "
    "all moved, and overlap lies between the two: an arm breaks only if it does where all is "
    "shared, and holds only if it does where all is moved. By position, the least is given."
)
_PARTS = ("kld", "kld_median", "kld_p90", "kld_p99", "kld_max", "same_top", "perplexity_ratio")
_NUMERIC = frozenset(range(2, 9))


def sections(results: Results) -> Iterator[Section]:
    """The sections; empty where no distribution was compared."""
    if results.measure == SCORE:
        return
    yield Section("How far distributions moved", list(_distances(results)))
    yield Section("Where they moved most", list(_moved(results)))


def _distances(results: Results) -> Iterator[Block]:
    yield Paragraph(TERMS)
    if any(_high(row) is not None for row in results.bin_stats):
        yield Paragraph(BOUNDS)
    yield Paragraph(_floor(results))
    names = ("Arm", "Bin", "Overlap", "KLD", "Median", "p90", "p99", "Max", "Same top")
    yield Table("By prompt length", names, tuple(_by_length(results)), _NUMERIC)
    bands = results.moved["bands"]
    if bands:
        columns = ("Arm", "Bin", "Positions", "Overlap", "KLD, median", "p90", "p99", "Max")
        yield Table("By position in the reply", columns, tuple(map(_band, bands)), _NUMERIC)


def _floor(results: Results) -> str:
    means = [
        f"{_value(row, text.score)} in bin {row['bin']} of {name(row['task'])}"
        for row in results.bin_stats
        if row["policy"] == FULL_CACHE and row["acc_mean"] is not None
    ]
    floor = text.listing(means, limit=6) if means else "unknown"
    return f"Noise floor ({results.measure} of the full cache with itself, asked again): {floor}."


def _by_length(results: Results) -> Iterator[tuple[Value, ...]]:
    for row in results.ordered(results.bin_stats):
        parts = row["parts_mean"]
        figures = [parts.get(part) for part in _PARTS[:-1]]
        moved = Value(_value(row, _written), row["acc_mean"])
        yield (_arm(row), Value(str(row["bin"])), moved, *map(_figure, figures))


def _high(row: BinStats) -> float | None:
    """The most that an arm's value can be, where it lies between bounds."""
    return row["parts_mean"].get(f"{row.get('measure', SCORE)}{HIGH}")


def _value(row: BinStats, written: Callable[[float | None], str]) -> str:
    low, high = written(row["acc_mean"]), _high(row)
    return low if high is None or written(high) == low else f"{low} to {written(high)}"


def _band(row: BandRow) -> tuple[Value, ...]:
    place = Value(f"{row['first']} to {row['last']}", row["first"])
    figures = (row["overlap"], row["kld_p50"], row["kld_p90"], row["kld_p99"], row["kld_max"])
    return (_arm(row), Value(str(row["bin"])), place, *map(_figure, figures))


def _arm(row: BandRow | BinStats) -> Value:
    variant = f" [{row['variant']}]" if row["variant"] else ""
    arm = f"{row['policy']} {text.budget(row['budget'])}"
    return Value(name(f"{row['task']} {arm}{variant}"))


def _figure(value: float | None) -> Value:
    return Value(_written(value), value)


def _written(value: float | None) -> str:
    return text.NOTHING if value is None else f"{value:.4g}"


def _moved(results: Results) -> Iterator[Block]:
    rows = results.moved["most"]
    if rows:
        yield Paragraph(
            "Of each reply and arm the position with the largest KLD, the largest of all first."
        )
    yield from map(_exhibit, rows)


def _exhibit(row: MovedRow) -> Exhibit:
    item = item_of(CellKey.of_row(row))
    title = (
        f"{name(item)}, example {name(row['example_id'])}, position {row['position']}: KLD "
        f"{row['kld']:.3g}, overlap {text.score(row['overlap'])}."
    )
    return Exhibit(title, tuple(_parts(row)))


def _parts(row: MovedRow) -> Iterator[tuple[str, str]]:
    yield from _known((("Prompt's end", row["prompt_end"]), ("Reply until there", row["reply"])))
    yield "Control", f"{_word(row['control_token'])} {_share(row['control_nll'])}"
    given = row["arm_token_control_nll"]
    beside = f", {_share(given)} by the control" if given is not None else ""
    yield "Arm", f"{_word(row['arm_token'])} {_share(row['arm_nll'])}{beside}"


def _word(token: str | None) -> str:
    return "(not kept)" if token is None else repr(token)


def _known(parts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((label, words) for label, words in parts if words)


def _share(nll: float | None) -> str:
    return text.NOTHING if nll is None else f"{math.exp(-nll):.1%}"
