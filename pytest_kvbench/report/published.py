"""A paper's scores beside ours, where an experiment declares some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_kvbench.experiment.published import Published, PublishedScore
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Paragraph, Section, Table, Value
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import CellRow

COLUMNS = ("Task", "Policy", "Budget", "Published", "Ours", "Ours less published", "n")
ALL_TASKS = "all (mean)"


def section(results: Results) -> Section:
    """Nothing where the experiment names no paper."""
    declared = results.declared.get("published")
    if not declared:
        return Section("Published scores", [])
    published = Published.model_validate(declared)
    rows = tuple(_row(results, score) for score in published.scores)
    return Section(
        "Published scores",
        [
            Paragraph(_words(results, published)),
            Table("", COLUMNS, rows, frozenset({2, 3, 4, 5, 6})),
        ],
    )


def _words(results: Results, published: Published) -> str:
    model = results.declared.get("engine.model")
    return (
        f"Published: {name(published.source)}, of {name(published.model)}. Ours: "
        f"{name(model)}, the same policy and budget of this run, times 100; a mean over tasks only "
        "where all of them have it. The two are like for like where model, prompts, lengths and "
        "chat template are. A cache of so many tokens is no share of a prompt, and has no score "
        "of ours beside it."
    )


def _row(results: Results, score: PublishedScore) -> tuple[Value, ...]:
    ours, n = _ours(results, score)
    difference = None if ours is None else ours - score.score
    return (
        Value(name(score.task) if score.task else ALL_TASKS),
        Value(name(score.policy)),
        _budget(score),
        Value(f"{score.score:.2f}", score.score),
        Value(text.NOTHING if ours is None else f"{ours:.2f}", ours),
        Value(text.NOTHING if difference is None else f"{difference:+.2f}", difference),
        Value(text.whole(n), n),
    )


def _budget(score: PublishedScore) -> Value:
    if score.tokens:
        return Value(f"{score.tokens:,} tokens", score.tokens)
    budget = 1.0 if score.policy == FULL_CACHE else score.budget
    return Value(text.NOTHING if budget is None else text.budget(budget), budget)


def _ours(results: Results, score: PublishedScore) -> tuple[float | None, int]:
    """Our score times 100 and the examples behind it; None where a task lacks the cell."""
    if score.tokens:
        return None, 0
    wanted = [s for s in results.series if score.task in {None, s.task}]
    found = [_cell(results, series, score) for series in wanted]
    full = score.policy == FULL_CACHE
    means = [cell["control_mean" if full else "treated_mean"] for cell in found if cell is not None]
    whole = [mean for mean in means if mean is not None]
    if not wanted or len(whole) < len(wanted):
        return None, 0
    return 100 * sum(whole) / len(whole), sum(cell["n"] for cell in found if cell is not None)


def _cell(results: Results, series: Series, score: PublishedScore) -> CellRow | None:
    """The headline row with the score's policy and budget; of the control, the largest one."""
    cells: Sequence[CellRow] = results.headline_cells(series)
    if score.policy == FULL_CACHE:
        return max(cells, key=lambda cell: cell["n"], default=None)
    alike: Iterable[CellRow] = (cell for cell in cells if _is_of(cell, score))
    return next(iter(alike), None)


def _is_of(cell: CellRow, score: PublishedScore) -> bool:
    return cell["policy"] == score.policy and score.budget in {None, cell["budget"]}
