"""What is certified, in words. Prose (see `text`), no markup."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Table, Value
from pytest_kvbench.report.results import Results
from pytest_kvbench.rows import Certificate

MOST = 3
"""Lines on a terminal."""


def sentence(row: Certificate) -> str:
    """A certificate, or why there is none, with the figures of all bins and of the worst one."""
    said = "certified" if row["certified"] else f"not certified: {'; '.join(row['problems'])}"
    return f"{said} ({figures(row)})"


def figures(row: Certificate) -> str:
    """Delta over all bins, and of the bin that lost most."""
    worst = row["worst"]
    in_worst = f", worst bin {worst['bin']} {text.difference(worst)}" if worst else ""
    return f"{text.difference(row)}{in_worst}"


def lines(results: Results) -> Iterator[str]:
    """For a terminal: first what is not certified."""
    rows = sorted(results.certificates, key=lambda row: bool(row["certified"]))
    for row in rows[:MOST]:
        yield f"{CellKey.of_row(row).item_id}: {sentence(row)}"
    if len(rows) > MOST:
        yield f"{len(rows) - MOST:,} more certificates in report.md"


def table(results: Results) -> Table:
    """A row an arm."""
    columns = ("Arm", "Certified", "Delta", "Worst bin", "Why not")
    rows = tuple(_row(row) for row in results.certificates)
    return Table("", columns, rows, frozenset())


def _row(row: Certificate) -> tuple[Value, ...]:
    worst = row["worst"]
    return (
        Value(text.name(CellKey.of_row(row).item_id)),
        Value("yes" if row["certified"] else "no"),
        Value(text.difference(row), row["delta"]),
        Value(f"{worst['bin']}: {text.difference(worst)}" if worst else text.NOTHING),
        Value("; ".join(row["problems"]) or text.NOTHING),
    )
