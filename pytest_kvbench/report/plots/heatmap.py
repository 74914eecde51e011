"""Delta of every cell: rows are tasks and bins, columns budgets, one panel a policy."""

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
from pytest_kvbench.report import text
from pytest_kvbench.report.plots import style
from pytest_kvbench.report.results import Results, Series, doubt, final
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
KEY = 0.75
"""Inches: the colour scale with its legend."""

DOUBTED = "*"
"""Beside the sign of a verdict on a cache that nothing proves to be smaller."""
COLOURS = colormaps["RdBu"]
"""Diverging, and told apart by the colour-blind (ColorBrewer)."""

Line = tuple[Series, BinKey]


@dataclass(frozen=True)
class Block:
    """One panel: its title, and the (policy, budget) of each column."""

    title: str
    columns: tuple[tuple[str, float], ...]

    @property
    def ticks(self) -> list[str]:
        """Budgets; with the policy where the title does not name it."""
        return [
            text.budget(b) if self.title == p else f"{p} {text.budget(b)}" for p, b in self.columns
        ]

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
    blocks = _blocks(results)
    left = _longest_label(results) * LETTER + 0.15
    widest = max(len(block.columns) for block in blocks)
    across = int((style.WIDTH - left) // (widest * CELL_WIDTH + BETWEEN))
    across = max(1, min(len(blocks), 3, across))
    down = math.ceil(len(blocks) / across)
    most = max(1, int(((TALLEST - 1 - KEY) / down - 0.6) / CELL))
    for lines in _pages(results, most):
        yield _heatmap(results, blocks, lines, across, left)


def _blocks(results: Results) -> list[Block]:
    """A panel a policy; those with a single budget share one."""
    ladders = {
        p: results.budgets(c for c in results.treated() if c["policy"] == p)
        for p in results.policies
    }
    blocks = [Block(p, tuple((p, b) for b in own)) for p, own in ladders.items() if len(own) > 1]
    single = tuple((p, b) for p, own in ladders.items() if len(own) == 1 for b in own)
    if len(single) == 1:
        return [*blocks, Block(single[0][0], single)]
    return [*blocks, Block("one budget each", single)] if single else blocks


def _pages(results: Results, most: int) -> list[list[Line]]:
    """Rows by figure; the rows of a series stay together."""
    found: list[list[Line]] = [[]]
    for series in results.series:
        lines = [(series, key) for key in _keys(results, series)]
        if found[-1] and len(found[-1]) + len(lines) > most:
            found.append([])
        found[-1] += lines
    return found


def _heatmap(
    results: Results, blocks: Sequence[Block], lines: Sequence[Line], across: int, left: float
) -> Figure:
    widest = max(len(block.columns) for block in blocks)
    spare = max(0.0, style.WIDTH - left - across * (widest * WIDEST_CELL + BETWEEN)) / 2
    sheet = style.Sheet(
        number=len(blocks),
        columns=across,
        height=len(lines) * CELL,
        title="Change of the mean score against the control, and verdict",
        below="budget: share of the full cache's bytes",
        left=left + spare,
        right=0.08 + spare,
        last_ticks=max(block.tick_height for block in blocks),
        between=BETWEEN,
        foot=KEY,
    )
    figure, axes = sheet.draw()
    norm = _norm(results)
    labels = _labels(results, lines)
    for block, (panel, first) in zip(blocks, sheet.leftmost(axes), strict=True):
        _panel(results, block, lines, panel, norm)
        panel.set_yticks(range(len(lines)), labels if first else [""] * len(lines))
    _explain(figure, norm, doubted=any(map(doubt, results.treated())))
    return figure


def _keys(results: Results, series: Series) -> list[BinKey]:
    bins: list[BinKey] = list(results.bins_of(series))
    return [*bins, ALL_BINS] if len(bins) != 1 and any(results.treated(series, ALL_BINS)) else bins


def _norm(results: Results) -> Normalize:
    """Symmetric about zero, from the largest change seen; at least twice the margin."""
    changes = [abs(c["delta"]) for c in results.treated() if c["delta"] is not None]
    limit = max([2 * results.margin, *changes])
    return Normalize(-limit, limit)


def _panel(
    results: Results, block: Block, lines: Sequence[Line], panel: Axes, norm: Normalize
) -> None:
    values = np.full((len(lines), len(block.columns)), np.nan)
    for (i, (series, key)), (j, column) in product(enumerate(lines), enumerate(block.columns)):
        cell = results.cell(series, key, *column)
        if cell is not None:
            values[i, j] = np.nan if cell["delta"] is None else cell["delta"]
            _write(panel, j, i, cell, norm)
    panel.set_facecolor("0.93")
    panel.imshow(values, cmap=COLOURS, norm=norm, aspect="auto")
    panel.set_xticks(range(len(block.columns)), block.ticks, rotation=90 * block.upright)
    panel.tick_params(length=0)
    panel.set_title(block.title)
    panel.spines[:].set_visible(False)
    _rule(panel, lines, len(block.columns))


def _write(panel: Axes, column: int, row: int, cell: CellRow, norm: Normalize) -> None:
    delta = cell["delta"]
    words = f"{text.short(delta)}\n{text.SYMBOLS[final(cell)]}{DOUBTED * bool(doubt(cell))}"
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


def _rule(panel: Axes, lines: Sequence[Line], columns: int) -> None:
    """White lines between cells, a black one where the task changes."""
    for j in range(1, columns):
        panel.axvline(j - 0.5, color="white", linewidth=0.8)
    for i in range(1, len(lines)):
        changes = lines[i][0] != lines[i - 1][0]
        width = 1.2 if changes else 0.8
        panel.axhline(i - 0.5, color="black" if changes else "white", linewidth=width)


def _labels(results: Results, lines: Sequence[Line]) -> list[str]:
    """The bin; above it, in the first row of a series, the task where there are several."""
    several = len(results.series) > 1
    first = {series: i for i, (series, _) in reversed(list(enumerate(lines)))}
    return [
        f"{series.label}\n{_bin(results, series, key)}"
        if several and first[series] == i
        else _bin(results, series, key)
        for i, (series, key) in enumerate(lines)
    ]


def _longest_label(results: Results) -> int:
    tasks = [s.label for s in results.series] if len(results.series) > 1 else []
    return max(map(len, [*tasks, *(b for s in results.series for b in _bins(results, s))]))


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
    signs = {**text.SYMBOLS, **({"unverified or simulated": DOUBTED} if doubted else {})}
    words = "   ".join(f"{sign} {word}" for word, sign in signs.items())
    bar.set_label(f"delta = treated - control (score, 0 to 1)\n{words}")
