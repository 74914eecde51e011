"""What all plots share: sizes for print, a palette the colour-blind can read, panels.

A figure is as wide as the text of an A4 page, so that a point on screen is a point in print.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FixedLocator, NullLocator

from pytest_kvbench.records import format_budget

WIDTH = 7.0
"""Inches: the text width of a printed page."""
COLUMN = 3.4
"""Inches: one of two columns. A figure has this width or the other, and no third."""
SMALL = 8.0
"""Points: no letter is smaller."""
DPI = 144
CONTROL_COLOUR = "#000000"
GREY = "#b5b5b5"

# Okabe and Ito (2008) without black and yellow (the control's; too pale on white), then three of
# Tol's muted scheme. Markers and lines differ too, so that colour is never the only difference.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#882255",
    "#999933",
    "#332288",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES = ("-", "--", "-.", (0, (1, 1)))

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": SMALL,
    "axes.titlesize": SMALL + 1,
    "axes.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "figure.titlesize": SMALL + 2,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "savefig.dpi": DPI,
    "text.usetex": False,
    "text.parse_math": False,  # a file's name may have dollar signs
    "pdf.fonttype": 42,  # whole glyphs inside, as journals ask for
    "svg.fonttype": "path",  # drawn, so that no font has to be there
    "svg.hashsalt": "kvbench",
}


@dataclass(frozen=True)
class Mark:
    """How one policy is drawn, everywhere."""

    color: Any
    marker: str
    linestyle: Any


def mark(position: int) -> Mark:
    """The look of the policy at `position` of the experiment's list."""
    return Mark(
        COLOURS[position % len(COLOURS)],
        MARKERS[position % len(MARKERS)],
        LINES[position % len(LINES)],
    )


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """A context in which figures are made and saved; the caller's settings come back after it."""
    with rc_context(_RC), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, whatever the caller makes of warnings.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


_LETTERS = TextToPath()
_HANDLE = 0.52
"""Inches: what an entry of a legend takes beside its words."""


@functools.cache
def measured(words: str, size: float = SMALL) -> float:
    """Inches that one line takes."""
    font = FontProperties(family=_RC["font.family"], size=size)
    return float(_LETTERS.get_text_width_height_descent(words, font, False)[0]) / 72


def fitted(words: str, room: float, size: float = SMALL) -> str:
    """Words, without their middle where they are wider than `room` inches."""
    shown, letters = words, len(words)
    while letters > 1 and (width := measured(shown, size)) > room:
        letters = min(letters - 1, math.ceil(letters * room / width))
        head = letters // 2
        shown = f"{words[:head]}…{words[len(words) - (letters - 1 - head) :]}"
    return shown


def name(panel: Axes, words: str) -> None:
    """Give a panel a title that is no wider than it."""
    room = panel.get_window_extent().width / panel.figure.dpi
    panel.set_title(fitted(words, room + 0.1, SMALL + 1))


@dataclass(frozen=True)
class Sheet:
    """A figure of equal panels in rows of `columns`; all measures in inches.

    `ticks` is what the tick labels of a row need (`last_ticks`: of the last row, where more),
    `foot` room below everything, `right` beside. Laid out by hand: matplotlib's constrained layout
    took most of the time of a figure.
    """

    number: int
    columns: int
    height: float
    title: str
    below: str
    left: float = 0.55
    ticks: float = 0.22
    last_ticks: float = 0.0
    between: float = 0.35
    legend: tuple[Any, ...] = ()
    across: int = 4
    width: float = WIDTH
    foot: float = 0.0
    right: float = 0.08

    @property
    def _legend_rows(self) -> int:
        return math.ceil(len(self.legend) / self._legend_columns)

    @property
    def _legend_columns(self) -> int:
        """As many as there is room for: entries go down, and each column has its own width."""
        wide = [self._entry_width(handle.get_label()) for handle in self.legend]
        for number in range(min(self.across, len(wide)), 1, -1):
            if sum(max(column) for column in np.array_split(wide, number)) <= self.width:
                return number
        return 1

    def _entry_width(self, label: str) -> float:
        return _HANDLE + measured(fitted(label, self.width - 2 * _HANDLE))

    @property
    def panel_width(self) -> float:
        """Of one panel."""
        return (
            self.width - self.left - self.right - (self.columns - 1) * self.between
        ) / self.columns

    def draw(self) -> tuple[Figure, list[Axes]]:
        """The figure with its frame (title, axis name, legend), and the empty panels."""
        rows = math.ceil(self.number / self.columns)
        gap = self.ticks + 0.3
        foot = self.foot + max(self.ticks, self.last_ticks) + 0.25 + 0.19 * self._legend_rows
        height = 0.55 + rows * self.height + (rows - 1) * gap + foot + 0.05
        figure = Figure(figsize=(self.width, height))
        figure.subplots_adjust(
            left=self.left / self.width,
            right=1 - self.right / self.width,
            top=1 - 0.55 / height,
            bottom=(foot + 0.05) / height,
            wspace=self.between / self.panel_width,
            hspace=gap / self.height,
        )
        self._frame(figure, height)
        grid = figure.subplots(rows, self.columns, squeeze=False).ravel()
        for spare in grid[self.number :]:
            spare.remove()
        return figure, list(grid[: self.number])

    def _frame(self, figure: Figure, height: float) -> None:
        middle = (self.left + self.width - self.right) / 2 / self.width
        title = fitted(self.title, self.width - 0.2, SMALL + 2)
        figure.suptitle(title, x=0.5, y=1 - 0.08 / height, va="top")
        above_legend = (self.foot + 0.19 * self._legend_rows + 0.12) / height
        figure.text(middle, above_legend, self.below, ha="center", va="bottom")
        if self.legend:
            columns = math.ceil(len(self.legend) / self._legend_rows)
            place = (0.5, self.foot / height)
            handles = list(self.legend)
            figure.legend(
                handles,
                [fitted(handle.get_label(), self.width - 2 * _HANDLE) for handle in handles],
                loc="lower center",
                bbox_to_anchor=place,
                ncols=columns,
                borderaxespad=0.2,
            )

    def leftmost(self, axes: Sequence[Axes]) -> Iterator[tuple[Axes, bool]]:
        """Each panel, and whether it begins a row."""
        for i, panel in enumerate(axes):
            yield panel, i % self.columns == 0


def budget_axis(panel: Axes, budgets: Sequence[float], width: float) -> None:
    """A log axis from large to small with a tick at every budget.

    Labels that would overlap in `width` inches are left out.
    """
    panel.set_xscale("log")
    low, high = min(budgets), max(budgets)
    room = 1.12 if low < high else 1.5
    panel.set_xlim(high * room, low / room)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_locator(FixedLocator(sorted(budgets)))
    inch = width / math.log(high * room * room / low)
    shown = _labelled(sorted(budgets), gap=0.36 / inch)
    panel.set_xticklabels([format_budget(b) if b in shown else "" for b in sorted(budgets)])


def _labelled(budgets: Sequence[float], gap: float) -> set[float]:
    """The ends, and between them, from below, those at least `gap` (in log units) apart."""
    last, shown = budgets[-1], [budgets[0]]
    for b in budgets[1:-1]:
        if math.log(b / shown[-1]) >= gap and math.log(last / b) >= gap:
            shown.append(b)
    return {*shown, last}


def dodge(position: int, number: int, width: float) -> float:
    """The shift of item `position` of `number` side by side within `width`, about zero."""
    return width * ((position + 0.5) / number - 0.5)
