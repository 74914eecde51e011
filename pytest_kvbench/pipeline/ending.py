"""What a run ends with: a status, and a reason in a line for each that is not 0.

The one decision of pytest and of the command line, live and in batches: what a conclusion found,
and the errors on the way, become reasons; the gravest of them is the exit status.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.errors import EXIT_FOUND, InfrastructureError, KvbenchError, UsageError
from pytest_kvbench.records import FULL_CACHE, Cell
from pytest_kvbench.report import certificates, text
from pytest_kvbench.report.caveats import item, item_of
from pytest_kvbench.report.results import Results, final
from pytest_kvbench.rows import CellRow, FailureMessage, MissingRow, Summary

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.compare import Comparison
    from pytest_kvbench.pipeline.conclude import Conclusion

_GRAVEST = (UsageError.exit_status, EXIT_FOUND, InfrastructureError.exit_status)
"""What was asked is wrong, what was found is bad, something is not known."""
_NAMED = 3
_MOST = 5  # lines
_LONGEST = 240  # characters of a line


@dataclass(frozen=True)
class Reason:
    """Why a run does not end with 0: the status it asks for, and a line without it."""

    status: int
    line: str

    @classmethod
    def of(cls, error: KvbenchError, group: str = "") -> Reason:
        """An error on the way; its hint was, or is, shown elsewhere."""
        return cls(error.exit_status, f"{group}: {error.what}" if group else error.what)


def status_of(reasons: Iterable[Reason]) -> int:
    """The gravest status among reasons, 0 where there are none."""
    found = {reason.status for reason in reasons}
    return next((status for status in _GRAVEST if status in found), 0)


def last_lines(reasons: Sequence[Reason]) -> list[str]:
    """The lines at the end of a log that say why a run ends with its status."""
    status = status_of(reasons)
    every = dict.fromkeys(reason.line for reason in reasons if reason.status == status)
    shown = (text.fit(text.plain(line), _LONGEST) for line in every)
    lines = [f"kvbench: exit status {status}: {line}" for line in shown]
    more = len(lines) - _MOST
    return [*lines[:_MOST], *([f"kvbench: and {more:,} more reasons"] if more > 0 else [])]


def of_conclusion(
    done: Conclusion, wanted: Collection[str] | None = None, waits: str = ""
) -> list[Reason]:
    """Why a run that was concluded so does not end with 0.

    Args:
        done: what a group came to.
        wanted: the ids of the cells that were to be measured (`CellKey.item_id`); None: all.
        waits: what open batches will still bring, in words: until then nothing is certified.
    """
    group, results = str(done.summary["group"]), Results(done.summary)
    found = [*_of_verdicts(results, wanted, ""), *_of_certificates(results, wanted, waits)]
    if done.uncompared is not None:
        found.append(Reason.of(done.uncompared, group))
    if done.comparison is not None:
        found += of_comparison(done.comparison, wanted)
    return found


def of_comparison(found: Comparison, wanted: Collection[str] | None = None) -> list[Reason]:
    """Reasons of regressions, and of cells that could not be compared.

    Args:
        found: two sides, compared.
        wanted: as `of_conclusion` takes it.
    """
    sides, reasons = f"{found.now}: {{}} against {found.base}: {{}}", list[Reason]()
    if worse := found.regressions:
        names = text.listing(dict.fromkeys(item_of(change.key) for change in worse), limit=_NAMED)
        line = sides.format(hints.count(len(worse), "regression"), names)
        reasons.append(Reason(EXIT_FOUND, line))
    left = {item_of(key): reason for key, reason in found.uncompared.items()}
    if left := {name: why for name, why in left.items() if wanted is None or name in wanted}:
        cells = hints.count(len(left), "cell")
        line = sides.format(f"{cells} not compared", text.listing(left, limit=_NAMED))
        reasons.append(
            Reason(InfrastructureError.exit_status, f"{line}: {next(iter(left.values()))}")
        )
    return reasons


def of_lines(group: str, lines: Iterable[str]) -> list[Reason]:
    """Reasons made of lines that name what is not known of a group."""
    return [Reason(InfrastructureError.exit_status, f"{group}: {line}") for line in lines]


def of_lost(
    group: str, lost: Mapping[Cell, str], messages: Sequence[FailureMessage]
) -> list[Reason]:
    """Why a run that nobody has judged yet does not end with 0: see `observe.lost_cells`.

    Args:
        group: its name.
        lost: the cells, each with how much of it was lost.
        messages: why, see `failure_messages`.
    """
    if not lost:
        return []
    rows: list[MissingRow] = [
        {**CellKey.of(cell).columns(), "reason": reason} for cell, reason in lost.items()
    ]
    return of_lines(group, [f"{_lacking(rows)}{_cause(messages)}"])


def of_summary(
    summary: Summary, wanted: Collection[str] | None = None, waits: str = ""
) -> list[Reason]:
    """Why a group with this summary does not end with 0.

    Args:
        summary: as in `summary.json`.
        wanted: as `of_conclusion` takes it.
        waits: what open batches will still bring, in words: what they are about is not missing.
    """
    results = Results(summary)
    return [*_of_verdicts(results, wanted, waits), *_of_certificates(results, wanted, waits)]


def _of_verdicts(results: Results, wanted: Collection[str] | None, waits: str) -> Iterator[Reason]:
    group, sick = results.group, _sick_controls(results, wanted)
    lines = [f"{item(row)}: {row['reason']}" for row in sick.values()]
    yield from (Reason(EXIT_FOUND, f"{group}: {line}") for line in [*lines, *_gated(results)])
    every: dict[str, MissingRow | CellRow] = {
        item(row): row for row in (*results.missing, *results.unmeasured)
    }
    lacking = [
        row
        for name, row in every.items()
        if CellKey.of_row(row).group not in sick and (wanted is None or name in wanted)
    ]
    if lacking and not waits:
        failed = results.integrity.get("messages", ()) if lacking[0].get("lost") else ()
        yield from of_lines(group, [f"{_lacking(lacking)}{_cause(failed)}"])


def _cause(messages: Sequence[FailureMessage]) -> str:
    return f": {messages[0]['message']}" if messages else ""


def _of_certificates(
    results: Results, wanted: Collection[str] | None, waits: str
) -> Iterator[Reason]:
    """Why `gate.mode: certify` does not pass: every arm that is not certified, or not yet.

    Of a selection that names arms these; of one that names none all, for it certifies nothing.
    """
    if results.declared.get("gate.mode") != "certify":
        return
    group, every = results.group, results.certificates
    if waits:
        yield from of_lines(group, [f"certify: {waits}"])
        return
    if not every:
        yield Reason(EXIT_FOUND, f"{group}: certify: no arm was judged")
    named = [row for row in every if CellKey.of_row(row).item_id in (wanted or ())]
    for row in named or every:
        if not row["certified"]:
            line = f"certify: {CellKey.of_row(row).item_id}: {certificates.sentence(row)}"
            yield Reason(EXIT_FOUND, f"{group}: {line}")


def _sick_controls(results: Results, wanted: Collection[str] | None) -> dict[object, CellRow]:
    """The controls that are not sane, of which something was wanted."""
    rows = (*results.cells, *results.missing)
    places = {CellKey.of_row(row).group for row in rows if wanted is None or item(row) in wanted}
    return {
        CellKey.of_row(row).group: row
        for row in results.cells
        if row["policy"] == FULL_CACHE and row["reason"] and CellKey.of_row(row).group in places
    }


def _gated(results: Results) -> list[str]:
    """What fails a group in `gate.mode: gate`: rows over all bins too, which no item stands for."""
    if results.declared.get("gate.mode") != "gate":
        return []
    treated = list(results.treated())
    breaks = [row for row in treated if final(row) == "breaks"]
    alone = ", in no bin alone" if all(row["bin"] == ALL_BINS for row in breaks) else ""
    lines = [f"gate: {_deltas(breaks)}{alone}: breaks"] if breaks else []
    if results.declared.get("gate.undetermined") != "fail":
        return lines
    open_ = [r for r in treated if r["bin"] != ALL_BINS and r["verdict_item"] == "undetermined"]
    others = any(final(row) != "undetermined" for row in open_)
    level = " as items, each at gate.alpha over the number of cells" if others else ""
    return [*lines, *([f"gate: {_deltas(open_)}: undetermined{level}"] if open_ else [])]


def _deltas(rows: Sequence[CellRow]) -> str:
    deltas = (f"{item(row)} ({text.short(row['delta'])})" for row in rows)
    return text.listing(deltas, limit=_NAMED)


def _lacking(rows: Sequence[MissingRow | CellRow]) -> str:
    """How many cells, which, and the first one's reason."""
    named = text.listing(map(item, rows), limit=_NAMED)
    return f"{hints.count(len(rows), 'cell')} not measured: {named}: {rows[0]['reason']}"
