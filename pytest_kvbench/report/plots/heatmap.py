"""Delta of every cell, columns budgets: tasks and bins below each other, one panel a policy.

Of many policies these are the rows, best first, and there is one panel a task and bin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pytest_kvbench.cellkey import ALL_BINS, BinKey
from pytest_kvbench.report import ranking, text
from pytest_kvbench.report.plots import style
from pytest_kvbench.report.results import Results, doubt, final
from pytest_kvbench.report.series import Series
from pytest_kvbench.rows import CellRow

TALLEST = 10.5
"""Inches: a page. Tasks that would make a figure taller go on to a further one."""
CELL = 0.31
"""Inches: a row's height, room for two lines of text."""
CELL_WIDTH = 0.31
WIDEST_CELL = 0.9
BETWEEN = 0.15
LETTER = 0.072
"""Inches: the width of a letter of the smallest text, about."""
TITLE_LETTER = 0.08
"""Of a panel's title."""
LONGEST = 1.8
"""Inches: what a name beside or below the panels may take."""
KEY = 0.75
"""Inches: the colour scale with its legend."""

COLOURS = colormaps["RdBu"]
"""Diverging, and told apart by the colour-blind (ColorBrewer)."""

Line = tuple[Series, BinKey]


@dataclass(frozen=True)
class Panel:
    """A title, a tick for each column, a label for each row, and the cells.

    Attributes:
        rules: rows above which something else begins.
    """

    title: str
    ticks: tuple[str, ...]
    labels: tuple[str, ...]
    cells: tuple[tuple[CellRow | None, ...], ...]
    rules: frozenset[int] = frozenset()

    @property
    def upright(self) -> bool:
        """Whether the ticks are too long to lie."""
        return max(map(len, self.ticks)) > 5

    @property
    def tick_height(self) -> float:
        """Inches below the panel."""
        return max(map(len, self.ticks)) * LETTER + 0.1 if self.upright else 0.22


def heatmaps(results: Results) -> Iterator[Figure]:
    """As many figures as keep each within a page."""
    pages = _by_bin(results) if ranking.is_wanted(results) else _by_policy(results)
    norm, doubted = _norm(results), any(map(doubt, results.treated()))
    for panels in pages:
        figure = _drawn(panels, norm)
        _explain(figure, norm, doubted=doubted)
        yield figure


def _across(labels: Sequence[str], titles: Sequence[str], columns: int) -> int:
    """How many panels of so many columns stand beside each other, their titles apart."""
    widest = max(columns * CELL_WIDTH, _longest(titles) * TITLE_LETTER)
    return max(1, min(len(titles), 3, int((style.WIDTH - _left(labels)) // (widest + BETWEEN))))


def _left(labels: Sequence[str]) -> float:
    """Inches that labels take."""
    return _longest(labels) * LETTER + 0.15


def _longest(texts: Sequence[str]) -> int:
    return max(len(line) for one in texts for line in one.split("\n"))


def _rows_of_page(down: int) -> int:
    """How many rows a panel may have where so many stand above each other."""
    return max(1, int(((TALLEST - 1 - KEY) / down - 0.6) / CELL))


# -- a panel a policy ----------------------------------------------------------------------------


def _by_policy(results: Results) -> Iterator[list[Panel]]:
    columns = _columns(results)
    labels = _labels(results, [(s, key) for s in results.series for key in _keys(results, s)])
    across = _across(labels, list(columns), max(map(len, columns.values())))
    for lines in _pages(results, _rows_of_page(math.ceil(len(columns) / across))):
        yield [_of_policy(results, title, of, lines) for title, of in columns.items()]


def _of_policy(
    results: Results, title: str, columns: Sequence[tuple[str, float]], lines: Sequence[Line]
) -> Panel:
    return Panel(
        title,
        tuple(
            text.budget(b) if title == p else f"{_short(p)} {text.budget(b)}" for p, b in columns
        ),
        tuple(_labels(results, lines)),
        tuple(tuple(results.cell(*line, *column) for column in columns) for line in lines),
        frozenset(i for i in range(1, len(lines)) if lines[i][0] != lines[i - 1][0]),
    )


def _columns(results: Results) -> dict[str, list[tuple[str, float]]]:
    """Of each panel the policy and budget of its columns; single budgets share a panel."""
    ladders = {
        p: [(p, b) for b in results.budgets(c for c in results.treated() if c["policy"] == p)]
        for p in results.policies
    }
    found = {p: own for p, own in ladders.items() if len(own) > 1}
    single = [column for own in ladders.values() if len(own) == 1 for column in own]
    if single:
        found[single[0][0] if len(single) == 1 else "one budget each"] = single
    return found


def _pages(results: Results, most: int) -> list[list[Line]]:
    """Rows by figure; the rows of a series stay together."""
    found: list[list[Line]] = [[]]
    for series in results.series:
        lines = [(series, key) for key in _keys(results, series)]
        if found[-1] and len(found[-1]) + len(lines) > most:
            found.append([])
        found[-1] += lines
    return found


# -- a panel a task and bin ----------------------------------------------------------------------


def _by_bin(results: Results) -> Iterator[list[Panel]]:
    lines = [(s, key) for s in results.series for key in _keys(results, s)]
    budgets = results.budgets(results.treated())
    every = ranking.ranked(results)
    across = _across([*map(_short, every)], [_title(results, line) for line in lines], len(budgets))
    down = max(1, int((TALLEST - 1 - KEY) / (len(every) * CELL + 0.6)))
    most, number = _rows_of_page(1), across * down
    for i in range(0, len(lines), number):
        for j in range(0, len(every), most):
            policies = every[j : j + most]
            yield [_of_line(results, line, policies, budgets) for line in lines[i : i + number]]


def _of_line(
    results: Results, line: Line, policies: Sequence[str], budgets: Sequence[float]
) -> Panel:
    return Panel(
        _title(results, line),
        tuple(map(text.budget, budgets)),
        tuple(map(_short, policies)),
        tuple(tuple(results.cell(*line, p, b) for b in budgets) for p in policies),
    )


def _title(results: Results, line: Line) -> str:
    (label,) = _labels(results, [line])
    return label.replace("\n", ", ")


# -- drawing -------------------------------------------------------------------------------------


def _drawn(panels: Sequence[Panel], norm: Normalize) -> Figure:
    labels, widest = panels[0].labels, max(len(panel.ticks) for panel in panels)
    across = _across(labels, [panel.title for panel in panels], widest)
    left = _left(labels)
    spare = max(0.0, style.WIDTH - left - across * (widest * WIDEST_CELL + BETWEEN)) / 2
    sheet = style.Sheet(
        number=len(panels),
        columns=across,
        height=len(labels) * CELL,
        title="Change of the mean score against the control, and verdict",
        below="budget: share of the full cache's bytes",
        left=left + spare,
        right=0.08 + spare,
        last_ticks=max(panel.tick_height for panel in panels),
        between=BETWEEN,
        foot=KEY,
    )
    figure, axes = sheet.draw()
    for panel, (place, first) in zip(panels, sheet.leftmost(axes), strict=True):
        _panel(panel, place, norm)
        place.set_yticks(range(len(labels)), labels if first else [""] * len(labels))
    return figure


def _keys(results: Results, series: Series) -> list[BinKey]:
    bins: list[BinKey] = list(results.bins_of(series))
    return [*bins, ALL_BINS] if len(bins) != 1 and any(results.treated(series, ALL_BINS)) else bins


def _norm(results: Results) -> Normalize:
    """Symmetric about zero, from the largest change seen; at least twice the margin."""
    changes = [abs(c["delta"]) for c in results.treated() if c["delta"] is not None]
    limit = max([2 * results.margin, *changes])
    return Normalize(-limit, limit)


def _panel(panel: Panel, place: Axes, norm: Normalize) -> None:
    values = [[_value(cell) for cell in row] for row in panel.cells]
    place.set_facecolor("0.93")
    place.imshow(np.array(values), cmap=COLOURS, norm=norm, aspect="auto")
    for (i, row), j in product(enumerate(panel.cells), range(len(panel.ticks))):
        if (cell := row[j]) is not None:
            _write(place, j, i, cell, norm)
    place.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=90 * panel.upright)
    place.tick_params(length=0)
    style.name(place, panel.title)
    place.spines[:].set_visible(False)
    _rule(panel, place)


def _value(cell: CellRow | None) -> float:
    return math.nan if cell is None or cell["delta"] is None else cell["delta"]


def _write(panel: Axes, column: int, row: int, cell: CellRow, norm: Normalize) -> None:
    delta = cell["delta"]
    words = f"{text.short(delta)}\n{text.SYMBOLS[final(cell)]}{ranking.DOUBTED * bool(doubt(cell))}"
    panel.text(
        column,
        row,
        words,
        ha="center",
        va="center",
        linespacing=0.95,
        color="black" if delta is None else _ink(COLOURS(norm(delta))),
    )


def _ink(background: Any) -> str:
    """Black or white, whichever is read better: relative luminance as WCAG weighs it."""
    red, green, blue, _ = background
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"


def _rule(panel: Panel, place: Axes) -> None:
    """White lines between cells, a black one where the task changes."""
    for j in range(1, len(panel.ticks)):
        place.axvline(j - 0.5, color="white", linewidth=0.8)
    for i in range(1, len(panel.labels)):
        changes = i in panel.rules
        width = 1.2 if changes else 0.8
        place.axhline(i - 0.5, color="black" if changes else "white", linewidth=width)


def _labels(results: Results, lines: Sequence[Line]) -> list[str]:
    """The bin; above it, in the first row of a series, the task where there are several."""
    several = len(results.series) > 1
    first = {series: i for i, (series, _) in reversed(list(enumerate(lines)))}
    return [
        f"{_short(series.label)}\n{_bin(results, series, key)}"
        if several and first[series] == i
        else _bin(results, series, key)
        for i, (series, key) in enumerate(lines)
    ]


def _short(name: str) -> str:
    """A name beside or below the panels."""
    return style.fitted(name, LONGEST)


def _bin(results: Results, series: Series, key: BinKey) -> str:
    place = results.bins_of(series).index(int(key)) if key != ALL_BINS else -1
    return _bins(results, series)[place]


def _bins(results: Results, series: Series) -> list[str]:
    """The label of each bin's row, and of the pooled one."""
    return [*(tick.replace("\n", ", ") for tick in results.bin_ticks(series)), "all bins"]


def _explain(figure: Figure, norm: Normalize, *, doubted: bool) -> None:
    """The colour scale, and what the symbols mean."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.8 / width, 0.58 / height, 1 - 1.6 / width, 0.1 / height))
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), cax=axes, orientation="horizontal")
    bar.outline.set_visible(False)
    signs = {**text.SYMBOLS, **({"unverified or simulated": ranking.DOUBTED} if doubted else {})}
    words = "   ".join(f"{sign} {word}" for word, sign in signs.items())
    bar.set_label(f"delta = treated - control (score, 0 to 1)\n{words}")
