"""Quality against budget: one curve a policy, each bar the interval its verdict was read from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pytest_kvbench.cellkey import ALL_BINS, BinKey
from pytest_kvbench.records import SCORE
from pytest_kvbench.report import ranking, text
from pytest_kvbench.report.plots import style
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series
from pytest_kvbench.rows import CellRow

MOST_OVERLAID = 5
"""More policies than this get a panel each, the others grey behind."""


def budget_curves(results: Results, series: Series) -> Figure:
    """One panel a bin after the pooled one; with many policies one panel a policy instead."""
    keys = _keys(results, series)
    many = len(results.policies) > MOST_OVERLAID
    number = len(results.policies) if many else len(keys)
    sheet = style.Sheet(
        number=number,
        columns=min(number, 3 if number > 6 else 2),
        height=1.5 if number > 1 else 2.4,
        title=f"{series.label}: {_what(results)} by budget",
        below="budget: share of the full cache's bytes (log scale)",
        legend=tuple(_legend(results, many)),
    )
    figure, axes = sheet.draw()
    if many:
        _by_policy(results, series, axes)
    else:
        _by_bin(results, series, keys, axes)
    for panel, left in sheet.leftmost(axes):
        _finish(results, series, panel, sheet.panel_width)
        panel.set_ylabel(f"mean {results.measure}" if left else "")
    return figure


def _what(results: Results) -> str:
    return "quality" if results.measure == SCORE else results.measure


def _keys(results: Results, series: Series) -> list[BinKey]:
    bins = list(results.bins_of(series))
    pooled = results.headline(series) == ALL_BINS and any(results.treated(series, ALL_BINS))
    return [ALL_BINS, *bins] if pooled and len(bins) > 1 else [*bins] or [ALL_BINS]


def _by_bin(results: Results, series: Series, keys: Sequence[BinKey], axes: Sequence[Axes]) -> None:
    for key, panel in zip(keys, axes, strict=True):
        _control(results, series, key, panel)
        for i, policy in enumerate(results.policies):
            ladder = results.of_policy(series, key, policy)
            shift = style.dodge(i, len(results.policies), 0.08)
            _curve(panel, ladder, style.mark(i), shift)
        style.name(panel, _title(results, series, key))


def _by_policy(results: Results, series: Series, axes: Sequence[Axes]) -> None:
    key = results.headline(series)
    looks = {policy: style.mark(i) for i, policy in enumerate(results.policies)}
    for policy, panel in zip(ranking.in_order(results, [series]), axes, strict=True):
        _control(results, series, key, panel)
        for other in results.policies:
            ladder = _measured(results.of_policy(series, key, other))
            panel.plot(*_points(ladder), color=style.GREY, linewidth=0.7, zorder=1)
        _curve(panel, results.of_policy(series, key, policy), looks[policy], 0.0)
        style.name(panel, f"{policy}, {_n(results.of_policy(series, key, policy))}")


def _measured(ladder: Sequence[CellRow]) -> list[CellRow]:
    return [c for c in ladder if c["treated_mean"] is not None and c["ci_low"] is not None]


def _points(ladder: Sequence[CellRow], shift: float = 0.0) -> tuple[Any, Any]:
    budgets = np.array([c["budget"] for c in ladder])
    return budgets * np.exp(shift), np.array([c["treated_mean"] for c in ladder])


def _curve(panel: Axes, ladder: Sequence[CellRow], look: style.Mark, shift: float) -> None:
    ladder = _measured(ladder)
    x, y = _points(ladder, shift)
    panel.plot(x, y, color=look.color, marker=look.marker, linestyle=look.linestyle, zorder=3)
    bars = [(c["control_mean"], c["ci_low"], c["ci_high"]) for c in ladder]
    control, low, high = np.array(bars, dtype=float).reshape(-1, 3).T
    low, high = np.clip(control + low, 0, 1), np.clip(control + high, 0, 1)
    panel.vlines(x, low, high, color=look.color, linewidth=0.9, zorder=2)


def _control(results: Results, series: Series, key: BinKey, panel: Axes) -> None:
    mean = next((c["control_mean"] for c in results.treated(series, key) if c["n"]), None)
    if mean is None:
        return
    low, high = _control_interval(results, series, key)
    if low is not None and high is not None:
        panel.axhspan(low, high, color="0.9", zorder=0)
    panel.axhline(mean, color=style.CONTROL_COLOUR, linewidth=1, zorder=1)
    margin = mean - results.margin
    panel.axhline(
        margin, color=style.CONTROL_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1
    )


def _control_interval(
    results: Results, series: Series, key: BinKey
) -> tuple[float | None, float | None]:
    """The control's interval; over bins by MOVER for the mean of independent estimates.

    Zou and Donner (2008), Construction of confidence limits about effect measures.
    """
    rows = [r for r in results.stats(series, "none") if key in (ALL_BINS, r["bin"])]
    if not rows or any(r["acc_mean"] is None or r["ci_low"] is None for r in rows):
        return None, None
    mean = np.array([r["acc_mean"] for r in rows])
    below = mean - np.array([r["ci_low"] for r in rows])
    above = np.array([r["ci_high"] for r in rows]) - mean
    centre, k = mean.mean(), len(rows)
    return (
        float(centre - np.sqrt((below**2).sum()) / k),
        float(centre + np.sqrt((above**2).sum()) / k),
    )


def _finish(results: Results, series: Series, panel: Axes, width: float) -> None:
    budgets = results.budgets(results.treated(series)) or (1.0,)
    style.budget_axis(panel, budgets, width)
    panel.set_ylim(-0.03, 1.03)
    panel.grid(axis="y", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)


def _title(results: Results, series: Series, key: BinKey) -> str:
    n = _n(list(results.treated(series, key)))
    if key == ALL_BINS:
        return f"all bins, {n}"
    edges = text.edges(results.bin_row(series, int(key)))
    return f"bin {key}: {edges}, {n}" if edges else f"bin {key}, {n}"


def _n(cells: Sequence[CellRow]) -> str:
    numbers = sorted({c["n"] for c in cells if c["n"]}) or [0]
    return f"n={numbers[0]}" if len(numbers) == 1 else f"n={numbers[0]}–{numbers[-1]}"


def _legend(results: Results, many: bool) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=m.color, marker=m.marker, linestyle=m.linestyle, label=policy)
        for policy, m in ((p, style.mark(i)) for i, p in enumerate(results.policies))
    ]
    if many:
        handles = [Line2D([], [], color=style.GREY, linewidth=0.7, label="other policies")]
    margin = results.margin
    return [
        *handles,
        Line2D([], [], color=style.CONTROL_COLOUR, linewidth=1, label="control"),
        Patch(color="0.9", label="its interval"),
        Line2D(
            [],
            [],
            color=style.CONTROL_COLOUR,
            linewidth=0.9,
            linestyle=(0, (4, 3)),
            label=f"control - margin ({margin:.2f})",
        ),
    ]
