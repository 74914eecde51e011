"""Pictures of a summary, by matplotlib's Agg canvas; the only place that imports matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from pytest_kvbench.files import replace_bytes, writing
from pytest_kvbench.report.blocks import Image
from pytest_kvbench.report.plots import bybin, curves, heatmap, style
from pytest_kvbench.report.results import Results, Series

FOLDER = "plots"
_CURVES = (
    "A bar is the paired interval of delta, drawn from the control's mean: wholly above the dashed "
    "line the cell holds, wholly below it breaks (before the adjustment for many cells)."
)


def draw_all(results: Results, folder: Path) -> tuple[Image, ...]:
    """Write every plot into `folder`/plots; what an earlier report left there goes.

    Returns:
        The images in reading order, paths relative to `folder`. None without treated cells.
    """
    target = folder / FOLDER
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*.png"):
            old.unlink()
    if not results.policies:
        return ()
    with style.house_style():
        return tuple(_save(figure, image, folder) for figure, image in _figures(results))


def _save(figure: Figure, image: Image, folder: Path) -> Image:
    picture = io.BytesIO()
    figure.savefig(picture)
    replace_bytes(folder / image.path, picture.getvalue())
    return image


def _figures(results: Results) -> Iterator[tuple[Figure, Image]]:
    for number, figure in enumerate(heatmap.heatmaps(results), start=1):
        alt = "Heatmap of delta and verdict: task and bin by budget, one panel per policy."
        yield figure, _image("heatmap", str(number), alt)
    for number, series in enumerate(results.series, start=1):
        yield from _of_series(results, series, f"{number}-{series.slug}")


def _of_series(results: Results, series: Series, slug: str) -> Iterator[tuple[Figure, Image]]:
    where = series.label
    curve = f"Mean score by budget for {where}, one curve per policy."
    yield curves.budget_curves(results, series), _image("curve", slug, curve, _CURVES)
    for kind, quantity in (
        ("accuracy", bybin.ACCURACY),
        ("failures", bybin.FAILURES),
        ("latency", bybin.LATENCY),
    ):
        rows = [row for policy in results.policies for row in results.stats(series, policy)]
        if any(quantity.point(row) is not None for row in rows):
            alt = f"{where}: {quantity.title}, one panel per policy."
            yield bybin.by_bin(results, series, quantity), _image(kind, slug, alt)


def _image(kind: str, slug: str, alt: str, caption: str = "") -> Image:
    return Image(kind, f"{FOLDER}/{kind}-{slug}.png", alt, caption)
