"""Where in a prompt a needle is found: mean score by its depth and the prompt's length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import ranking, text
from pytest_kvbench.report.pages.records import Answers, Arm
from pytest_kvbench.report.plots import style
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series

ROWS = 5
"""Shares of a prompt, of equal size."""
COLOURS = colormaps["cividis"]
_ROW = 0.24
_KEY = 0.55
_LETTER = 0.066


class Square(TypedDict):
    """The needles of one arm within a share of depth and a bin of lengths."""

    task: str
    variant: str
    policy: str
    budget: float
    bin: int
    depth_low: float
    depth_high: float
    n: int
    score: float


@dataclass(frozen=True)
class _Place:
    arm: tuple[str, float]
    bin: int
    row: int


def squares(found: Answers, series: Series) -> list[Square]:
    """What is known of a series whose examples have a depth; of others nothing."""
    scores: dict[_Place, list[float]] = defaultdict(list)
    for answer in found.answers:
        task, entry = found.examples[answer.example]
        arm, row = found.arms[answer.arm], _row(entry.example.meta.get("depth"))
        is_own = (task, arm.variant) == (series.task, series.variant) and not arm.aa
        if is_own and row is not None and answer.score is not None:
            scores[_Place((arm.policy, arm.budget), entry.bin, row)].append(answer.score)
    return [_square(series, place, of_place) for place, of_place in scores.items()]


def _row(depth: object) -> int | None:
    """Which share of a prompt a depth is in; None of what is no depth."""
    if not isinstance(depth, float | int) or not 0 <= depth <= 1:
        return None
    return min(int(depth * ROWS), ROWS - 1)


def _square(series: Series, place: _Place, scores: Sequence[float]) -> Square:
    return {
        "task": series.task,
        "variant": series.variant,
        "policy": place.arm[0],
        "budget": place.arm[1],
        "bin": place.bin,
        "depth_low": place.row / ROWS,
        "depth_high": (place.row + 1) / ROWS,
        "n": len(scores),
        "score": sum(scores) / len(scores),
    }


def by_depth(
    results: Results, series: Series, found: Sequence[Square]
) -> Iterator[tuple[str, Figure, list[Square]]]:
    """A figure a policy: its name, the control's panel and one a budget, and what they show."""
    for policy in ranking.in_order(results, [series]):
        own = [s for s in found if s["policy"] in (policy, FULL_CACHE)]
        if any(square["policy"] == policy for square in own):
            yield policy, _figure(results, series, policy, own), own


def _figure(results: Results, series: Series, policy: str, own: Sequence[Square]) -> Figure:
    panels = _panels(own)
    bins = results.bins_of(series)
    columns = min(len(panels), 3)
    ticks = [tick.partition("\n")[0] for tick in results.bin_ticks(series)]
    upright = max(map(len, ticks)) * _LETTER * len(bins) > (style.WIDTH - 1) / columns
    sheet = style.Sheet(
        number=len(panels),
        columns=columns,
        height=ROWS * _ROW,
        title=f"{series.label}: score of {policy} by the needle's depth",
        below="prompt length (tokens)",
        ticks=0.75 if upright else 0.22,
        between=0.15,
        foot=_KEY,
    )
    figure, axes = sheet.draw()
    for (title, squares_of), (panel, left) in zip(panels, sheet.leftmost(axes), strict=True):
        _panel(panel, bins, squares_of)
        style.name(panel, title)
        panel.set_xticks(range(len(bins)), ticks, rotation=90 * upright)
        panel.set_yticks([-0.5, ROWS - 0.5], ["start", "end"] if left else ["", ""])
    _explain(figure)
    return figure


def _panels(own: Sequence[Square]) -> list[tuple[str, list[Square]]]:
    """The control's, then budgets falling; those that look alike have one together."""
    arms: dict[tuple[str, float], list[Square]] = defaultdict(list)
    for square in sorted(own, key=lambda s: (s["policy"] != FULL_CACHE, -s["budget"])):
        arms[square["policy"], square["budget"]].append(square)
    alike: dict[tuple[object, ...], list[tuple[str, float]]] = defaultdict(list)
    for arm, of_arm in arms.items():
        shown = sorted((s["bin"], s["depth_low"], s["score"]) for s in of_arm)
        alike[arm[0], *shown].append(arm)
    return [(_title(same), arms[same[0]]) for same in alike.values()]


def _title(arms: Sequence[tuple[str, float]]) -> str:
    """`snapkv 0.50`, or of several alike `snapkv 0.70, 0.50`."""
    more = (text.budget(budget) for _, budget in arms[1:])
    return ", ".join([Arm(*arms[0]).label, *more])


def _panel(panel: Axes, bins: Sequence[int], own: Sequence[Square]) -> None:
    values = np.full((ROWS, len(bins)), np.nan)
    for square in own:
        row, column = round(square["depth_low"] * ROWS), bins.index(square["bin"])
        values[row, column] = square["score"]
        ink = "white" if square["score"] < 0.5 else "black"
        shown = text.score(square["score"])
        panel.text(column, row, shown, ha="center", va="center", color=ink)
    panel.set_facecolor("0.93")
    panel.imshow(values, cmap=COLOURS, norm=Normalize(0, 1), aspect="auto")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    for edge in range(1, max(ROWS, len(bins))):
        if edge < ROWS:
            panel.axhline(edge - 0.5, color="white", linewidth=0.8)
        if edge < len(bins):
            panel.axvline(edge - 0.5, color="white", linewidth=0.8)


def _explain(figure: Figure) -> None:
    """The colour scale."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.8 / width, 0.42 / height, 1 - 1.6 / width, 0.1 / height))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), COLOURS), cax=axes, orientation="horizontal"
    )
    bar.outline.set_visible(False)
    bar.set_label("mean score")
