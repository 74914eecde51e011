"""Quality against memory: which arms no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypedDict

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pytest_kvbench import hints
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import ranking, text
from pytest_kvbench.report.costs import average
from pytest_kvbench.report.plots import style
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series

_MOST_TICKS = 4
_WIDEST = 0.25
"""Of places side by side, in logarithms of bytes."""
_OTHER = style.Mark("0.62", ".", "none")
"""The look of policies that are not told apart."""


class Point(TypedDict):
    """An arm: bytes of KV cache of a prompt right after compression, and the mean score.

    The interval is that of the difference from the control, from the control's mean on.
    """

    task: str
    variant: str
    policy: str
    budget: float
    kept_bytes: float
    score: float
    low: float | None
    high: float | None
    best: bool


def points(results: Results, series: Series) -> list[Point]:
    """Arms whose bytes were measured; none where no treatment's were."""
    every = [*_control(results, series), *_treated(results, series)]
    if all(point["policy"] == FULL_CACHE for point in every):
        return []
    return [{**point, "best": _is_best(point, every)} for point in every]


def _control(results: Results, series: Series) -> Iterator[Point]:
    rows = results.stats(series, FULL_CACHE)
    score = average(row["acc_mean"] for row in rows)
    size = average(row["kept_bytes_mean"] for row in rows)
    if score is not None and size:
        yield _point(series, FULL_CACHE, 1.0, size, score)


def _treated(results: Results, series: Series) -> Iterator[Point]:
    for cell in results.headline_cells(series):
        policy, budget, control = cell["policy"], cell["budget"], cell["control_mean"]
        rows = [r for r in results.stats(series, policy) if r["budget"] == budget]
        size = average(row["kept_bytes_mean"] for row in rows)
        if size and cell["treated_mean"] is not None and control is not None:
            point = _point(series, policy, budget, size, cell["treated_mean"])
            ends = (cell["ci_low"], cell["ci_high"])
            low, high = (None if end is None else min(1.0, max(0.0, control + end)) for end in ends)
            yield {**point, "low": low, "high": high}


def _point(series: Series, policy: str, budget: float, size: float, score: float) -> Point:
    return {
        "task": series.task,
        "variant": series.variant,
        "policy": policy,
        "budget": budget,
        "kept_bytes": size,
        "score": score,
        "low": None,
        "high": None,
        "best": False,
    }


def _is_best(point: Point, every: Sequence[Point]) -> bool:
    """Whether no other is as small and as good, and better in one."""
    return not any(
        other["kept_bytes"] <= point["kept_bytes"]
        and other["score"] >= point["score"]
        and (other["kept_bytes"], other["score"]) != (point["kept_bytes"], point["score"])
        for other in every
    )


def frontier(results: Results, found: dict[Series, list[Point]]) -> Figure:
    """One panel a task, the arms that none beats joined by a line."""
    number, named = len(found), _named(results, found)
    columns, many = min(number, 2), ranking.is_wanted(results)
    sheet = style.Sheet(
        number=number,
        columns=columns,
        height=2.6 if many else 1.8,
        title="Mean score by memory",
        below=f"KV cache of a prompt (log scale{'; those of one size side by side' * many})",
        right=0.3,
        legend=tuple(_legend(results, named)),
        across=4 if columns > 1 or many else 2,
        width=style.WIDTH if columns > 1 or many else style.COLUMN,
    )
    figure, axes = sheet.draw()
    for (series, of_series), (panel, left) in zip(found.items(), sheet.leftmost(axes), strict=True):
        _panel(results, of_series, panel, named)
        style.name(panel, series.label)
        panel.set_ylabel("mean score" if left else "")
    return figure


def _named(results: Results, found: dict[Series, list[Point]]) -> dict[str, style.Mark]:
    """The policies that are told apart, with their looks: of many, those that matter here.

    These are the ones that no other beats somewhere, and the one that any must beat.
    """
    looks = {policy: style.mark(i) for i, policy in enumerate(results.policies)}
    if not ranking.is_wanted(results):
        return looks
    best = {p["policy"] for points in found.values() for p in points if p["best"]}
    return {p: look for p, look in looks.items() if p in {*best, ranking.RANDOM}}


def _panel(
    results: Results, of_series: Sequence[Point], panel: Axes, named: dict[str, style.Mark]
) -> None:
    best = sorted((p["kept_bytes"], p["score"]) for p in of_series if p["best"])
    panel.plot(*zip(*best, strict=True), color=style.GREY, linewidth=3, zorder=1)
    shifts = _shifts(results, named)
    for policy in results.policies:
        mine = sorted((p for p in of_series if p["policy"] == policy), key=lambda p: p["budget"])
        x, y = [p["kept_bytes"] * shifts[policy] for p in mine], [p["score"] for p in mine]
        look = named.get(policy, _OTHER)
        panel.plot(x, y, look.marker, color=look.color, linestyle="none", zorder=3)
        ends = [(at, p["low"], p["high"]) for at, p in zip(x, mine, strict=True)]
        bars = [end for end in ends if end[1] is not None]
        if bars and policy in named:
            panel.vlines(*zip(*bars, strict=True), color=look.color, linewidth=0.8, zorder=2)
    for point in of_series:
        if point["policy"] == FULL_CACHE:
            place = ([point["kept_bytes"]], [point["score"]])
            panel.plot(*place, "*", color=style.CONTROL_COLOUR, markersize=8, zorder=3)
    _scales(panel)


def _shifts(results: Results, named: Collection[str]) -> dict[str, float]:
    """By what the bytes of each are drawn off where there are many, as most keep the very same.

    Those that are told apart stand side by side, all others behind them in one place.
    """
    budgets = sorted(results.budgets(results.treated()))
    gaps = [math.log(above / below) for below, above in pairwise(budgets)]
    width = min([_WIDEST, *(0.7 * gap for gap in gaps)]) if ranking.is_wanted(results) else 0.0
    places = {policy: place for place, policy in enumerate(named)}
    return {
        policy: math.exp(style.dodge(places.get(policy, len(named)), len(named) + 1, width))
        for policy in results.policies
    }


def _scales(panel: Axes) -> None:
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    low, high = low / 1.1, high * 1.3
    panel.set_xlim(low, high)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.size(value)))
    panel.set_ylim(-0.03, 1.03)
    panel.grid(axis="y", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of two between two sizes, at most `_MOST_TICKS` of them, evenly apart."""
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = max(1, math.ceil((last - first + 1) / _MOST_TICKS))
    return [2.0**power for power in range(first, last + 1, step)]


def _legend(results: Results, named: dict[str, style.Mark]) -> list[Any]:
    others = len(results.policies) - len(named)
    looks = {**named, **({hints.count(others, "other policy"): _OTHER} if others else {})}
    return [
        Line2D([], [], color="black", marker="*", markersize=8, linestyle="none", label="control"),
        *(
            Line2D([], [], color=look.color, marker=look.marker, linestyle="none", label=policy)
            for policy, look in looks.items()
        ),
        Line2D([], [], color=style.GREY, linewidth=3, label="none better"),
    ]
