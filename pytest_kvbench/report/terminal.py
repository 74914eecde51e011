"""The end of a run on one screen: verdicts, brackets, what is missing, what to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from pytest_kvbench import hints
from pytest_kvbench.records import SCORE
from pytest_kvbench.report import answers, caveats, certificates, ranking, text
from pytest_kvbench.report.brackets import bracket, ends
from pytest_kvbench.report.failed import failure_lines
from pytest_kvbench.report.results import Results, doubt, final
from pytest_kvbench.report.series import Series
from pytest_kvbench.rows import CellRow, Summary

SCREEN = 24
"""Lines, paths included."""
LETTERS = {"holds": "H", "breaks": "B", "undetermined": "?", "not-measured": "-"}
LEGEND = "H holds  B breaks  ? undetermined  - not-measured"
DOUBTED = "  h b {}"
WITH_DELTA = "  .05 delta"
MOST_FLAGS = 3
MOST_OF_FAILURES = 5
_NAME = 19
_WITH_DELTA = 7
"""Columns of this width have room for a delta beside the verdict's letter."""
_BRACKET = 14


def terminal_lines(summary: Summary, width: int = 80, paths: Sequence[str] = ()) -> list[str]:
    """At most 24 lines of at most `width` characters, the caller's `paths` last.

    Where there is more than a screen, rows of the table give way. Paths are kept whole, whatever
    their length: they are there to be copied.
    """
    results = Results(summary)
    every = (results, *results.others)
    wanted = sum(len(_table(one, width, SCREEN)) for one in every)
    for sentence in (text.wrapped, _fitted):
        heads = [list(sentence(text.plain(_headline(one)), width)) for one in every]
        tail = list(_tail(results, width, sentence))
        left = SCREEN - len(tail) - len(paths) - sum(map(len, heads))
        if left >= wanted:
            break
    lines = list[str]()
    for one, head in zip(every, heads, strict=True):
        table = _table(one, width, left // len(every))
        lines += [*head, *(text.fit(text.printable(line), width) for line in table)]
    return [*lines, *tail, *paths]


_Sentence = Callable[[str, int], Sequence[str]]


def _fitted(sentence: str, width: int) -> Sequence[str]:
    """Where the table needs the room."""
    return [text.fit(sentence, width)]


def _tail(results: Results, width: int, sentence: _Sentence) -> Iterator[str]:
    for line in (*_missing(results, width), *certificates.lines(results)):
        yield from sentence(text.plain(line), width)
    yield from _failures(results, width)[:MOST_OF_FAILURES]
    for line in _flags(results):
        yield from sentence(line, width)


def _headline(results: Results) -> str:
    model = results.declared.get("engine.model")
    cells = [c for s in results.series for c in results.headline_cells(s)]
    share = results.retain
    bar = f"retain {share:g}" if share else f"margin {results.margin:g}"
    bar = bar if results.measure == SCORE else f"{results.measure}, {bar}"
    return (
        f"{results.group or 'kvbench'}{f', {model}' if model else ''}: "
        f"{answers.tally(cells)} ({bar}){_older(results)}"
    )


def _older(results: Results) -> str:
    """Since when a run took answers that is not to take those of runs before."""
    origin = results.provenance
    since = origin.get("answers_since") if origin else None
    if origin is None or since is None:
        return ""
    age = datetime.fromisoformat(origin["started"]) - datetime.fromisoformat(since)
    return f", with answers of a run begun {text.duration(max(0, age.total_seconds()))} before"


def _table(results: Results, width: int, room: int) -> list[str]:
    """A row a policy, a column a budget: delta and the verdict's letter."""
    budgets = results.budgets(c for s in results.series for c in results.headline_cells(s))
    if not budgets:
        return ["no treated cell was measured"]
    space = width - _NAME - _BRACKET
    longest = 1 + max(len(text.budget(b)) for b in budgets)
    roomy = max(_WITH_DELTA, longest)
    cell = roomy if len(budgets) * roomy <= space else max(5, longest)
    shown = _thinned(budgets, max(2, space // cell))
    columns = "".join(text.budget(b).rjust(cell) for b in shown)
    head = "budget".ljust(_NAME) + columns + "  lost in"
    rows = [line for s in results.series for line in _rows(results, s, shown, cell)]
    whys = [doubt(c) for s in results.series for c in results.headline_cells(s)]
    doubted = [why for why in answers.DOUBTS if why in whys and why != "placebo?"]
    legend = (
        LEGEND
        + (DOUBTED.format(", ".join(doubted)) if any(whys) else "")
        + WITH_DELTA * (cell >= _WITH_DELTA)
    )
    return [head, *_clipped(rows, room - 2), legend]


def _thinned(budgets: Sequence[float], most: int) -> list[float]:
    """Both ends, and what fits evenly between."""
    if len(budgets) <= most:
        return list(budgets)
    steps = (round(i * (len(budgets) - 1) / (most - 1)) for i in range(most))
    return [budgets[i] for i in dict.fromkeys(steps)]


def _rows(results: Results, series: Series, shown: Sequence[float], cell: int) -> list[str]:
    """The rows of one series; a heading of its own only where the label must name both."""
    key = results.headline(series)
    several, alone = len(results.series) > 1, len(results.policies) == 1
    lines = [series.label] if several and not alone else []
    indent = "  " * len(lines)
    for policy in ranking.in_order(results, [series]):
        ladder = {c["budget"]: c for c in results.of_policy(series, key, policy)}
        label = series.label if several and alone else indent + policy
        columns = "".join(_column(ladder.get(b), cell) for b in shown)
        lost = bracket(*ends(results.transition(series, key, policy)))
        lines.append(f"{text.fit(label, _NAME - 1).ljust(_NAME)}{columns}  {lost}")
    return lines


def _column(cell: CellRow | None, width: int) -> str:
    if cell is None:
        return " " * width
    letter = LETTERS[final(cell)]
    letter = letter.lower() if doubt(cell) else letter
    shown = f"{text.short(cell['delta'])} {letter}" if width >= _WITH_DELTA else letter
    return shown.rjust(width)


def _clipped(rows: list[str], room: int) -> list[str]:
    if len(rows) <= room:
        return rows
    kept = max(0, room - 1)
    return [*rows[:kept], f"... {hints.count(len(rows) - kept, 'more row')} in report.md"]


def _missing(results: Results, width: int) -> list[str]:
    rows = [*results.missing, *results.unmeasured]
    if not rows:
        return []
    partial = "partial run, " if results.is_partial else ""
    head = f"{partial}{hints.count(len(rows), 'cell')} not measured: "
    names = [caveats.item(row) for row in rows]
    listed = (f"{head}{text.listing(names, limit=limit)}" for limit in (3, 2, 1))
    whole = (line for line in listed if not text.wrapped(line, width)[-1].endswith("..."))
    short = next(whole, head.removesuffix(": "))
    whys = dict.fromkeys(r["reason"] for r in results.unmeasured if r["reason"])
    more = f", or {hints.count(len(whys) - 1, 'other reason')}" if len(whys) > 1 else ""
    why = [f"not measured: {next(iter(whys))}{more}"] if whys else []
    return [short, *why]


def _failures(results: Results, width: int) -> list[str]:
    """How many requests failed, and why, in the server's own words."""
    messages, failed = results.integrity.get("messages"), results.integrity["failures"]
    return failure_lines(messages, sum(failed.values()), width) if messages else []


def _flags(results: Results) -> list[str]:
    flags = [text.plain(flag) for flag in caveats.warnings(results)]
    more = len(flags) - MOST_FLAGS
    lines = [f"! {flag}" for flag in flags[:MOST_FLAGS]]
    return [*lines, f"! {more:,} more flags in report.md"] if more > 0 else lines
