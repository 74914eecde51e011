"""What happens as prompts grow: accuracy, failure rate and latency by bin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from pytest_kvbench.records import FULL_CACHE, format_budget
from pytest_kvbench.report import ranking, text
from pytest_kvbench.report.plots import style
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series
from pytest_kvbench.rows import BinStats


@dataclass(frozen=True)
class Quantity:
    """What is drawn: `bar` gives the point of a row, and the low and high end of its bar."""

    title: str
    axis: str
    bar: Callable[[BinStats], tuple[float | None, float | None, float | None]]
    share: bool = False

    def point(self, row: BinStats) -> float | None:
        """The point alone."""
        return self.bar(row)[0]


ACCURACY = Quantity(
    "accuracy by bin", "mean score", lambda row: (row["acc_mean"], row["ci_low"], row["ci_high"])
)
FAILURES = Quantity(
    "failure rate by bin", "failed requests", lambda row: (row["fail_rate"],) * 3, share=True
)
LATENCY = Quantity(
    "latency by bin (point: p50, bar: to p95)",
    "seconds per answer",
    lambda row: (row["latency_p50"], row["latency_p50"], row["latency_p95"]),
)
CONTROL = style.Mark(style.CONTROL_COLOUR, "o", ":")


def is_worth_drawing(results: Results, series: Series, quantity: Quantity) -> bool:
    """Whether a treatment has a point, and of failures whether there was one."""
    points = [
        quantity.point(row)
        for policy in (*results.policies, *([FULL_CACHE] if quantity.share else []))
        for row in results.stats(series, policy)
    ]
    return any(points) if quantity.share else any(point is not None for point in points)


def by_bin(results: Results, series: Series, quantity: Quantity) -> Figure:
    """One panel a policy, one colour a budget, the control in black in every panel."""
    budgets = results.budgets(results.treated(series))
    ladder = {b: _look(i, len(budgets)) for i, b in enumerate(budgets)}
    groups = _groups(results, series, quantity)
    ticks = results.bin_ticks(series)
    sheet = style.Sheet(
        number=len(groups),
        columns=min(len(groups), 2),
        height=1.4 if len(groups) > 1 else 2.0,
        title=f"{series.label}: {quantity.title}",
        below="prompt length (tokens)",
        left=0.55 if quantity is ACCURACY else 0.75,
        ticks=0.35 if len(ticks) <= 6 else 0.8,
        legend=tuple(_legend(ladder, groups)),
        across=7,
    )
    figure, axes = sheet.draw()
    for (title, rows), (panel, left) in zip(groups.items(), sheet.leftmost(axes), strict=True):
        _panel(results.bins_of(series), rows, quantity, ladder, panel)
        panel.set_xticks(range(len(ticks)), ticks, rotation=0 if len(ticks) <= 6 else 90)
        style.name(panel, title)
        panel.set_ylabel(quantity.axis if left else "")
    _limits(axes, quantity)
    return figure


def _groups(results: Results, series: Series, quantity: Quantity) -> dict[str, list[BinStats]]:
    """The rows of each panel by its title: the control's and a policy's.

    Policies without a point have none, and those that would look alike have one together.
    """
    control = results.stats(series, FULL_CACHE)
    alike: dict[tuple[object, ...], list[str]] = {}
    for policy in ranking.in_order(results, [series]):
        rows = results.stats(series, policy)
        drawn = tuple((r["bin"], r["budget"], *quantity.bar(r)) for r in rows)
        if any(quantity.point(row) is not None for row in rows):
            alike.setdefault(drawn, []).append(policy)
    return {
        text.listing(policies, limit=3): [*control, *results.stats(series, policies[0])]
        for policies in alike.values()
    }


def _look(position: int, number: int) -> style.Mark:
    """Sequential colours for budgets: darker is smaller."""
    shade = colormaps["cividis"](0.85 * (1 - position / max(1, number - 1)) if number > 1 else 0.3)
    return style.Mark(shade, style.MARKERS[position % len(style.MARKERS)], "-")


def _panel(
    bins: Sequence[int],
    rows: Sequence[BinStats],
    quantity: Quantity,
    ladder: dict[float, style.Mark],
    panel: Axes,
) -> None:
    arms = [([r for r in rows if r["policy"] == FULL_CACHE], CONTROL)]
    for budget, look in ladder.items():
        arms.append(
            ([r for r in rows if (r["policy"] != FULL_CACHE, r["budget"]) == (True, budget)], look)
        )
    arms = [(of_arm, look) for of_arm, look in arms if of_arm]
    for i, (of_arm, look) in enumerate(arms):
        shift = style.dodge(i, len(arms), min(0.6, 0.12 * len(arms)))
        _draw(panel, bins, of_arm, quantity, look, shift)
    panel.set_xlim(-0.5, len(bins) - 0.5)
    panel.grid(axis="y", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)


def _draw(
    panel: Axes,
    bins: Sequence[int],
    rows: Sequence[BinStats],
    quantity: Quantity,
    look: style.Mark,
    shift: float,
) -> None:
    bars = [(bins.index(int(row["bin"])) + shift, *quantity.bar(row)) for row in rows]
    drawn = [bar for bar in bars if None not in bar]
    x, points, low, high = np.array(drawn, dtype=float).reshape(-1, 4).T
    panel.plot(
        x,
        points,
        color=look.color,
        marker=look.marker,
        linestyle=look.linestyle,
        linewidth=0.8,
        markersize=4,
        zorder=3,
        clip_on=False,  # a rate of zero lies on the axis
    )
    panel.vlines(x, low, high, color=look.color, linewidth=0.9)


def _limits(axes: Sequence[Axes], quantity: Quantity) -> None:
    """The same scale in all panels; scores span 0 to 1, the others start at zero."""
    top = max(panel.get_ylim()[1] for panel in axes)
    for panel in axes:
        if quantity is ACCURACY:
            panel.set_ylim(-0.03, 1.03)
        else:
            panel.set_ylim(0, max(top, 0.05) if quantity.share else 1.05 * top)
        if quantity.share:
            panel.yaxis.set_major_formatter(
                PercentFormatter(1, decimals=0 if panel.get_ylim()[1] > 0.04 else 1)
            )


def _legend(ladder: dict[float, style.Mark], groups: dict[str, list[BinStats]]) -> list[Any]:
    present = {r["budget"] for rows in groups.values() for r in rows if r["policy"] != FULL_CACHE}
    budgets = [(format_budget(b), look) for b, look in ladder.items() if b in present]
    return [
        Line2D([], [], color=m.color, marker=m.marker, linestyle=m.linestyle, label=label)
        for label, m in [("control", CONTROL), *budgets]
    ]
