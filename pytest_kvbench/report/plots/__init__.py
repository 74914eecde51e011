"""Pictures of a summary, by matplotlib's Agg canvas; the only place that imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_kvbench.records import SCORE
from pytest_kvbench.report.blocks import Image
from pytest_kvbench.report.formats import FORMATS
from pytest_kvbench.report.pages.records import Answers
from pytest_kvbench.report.plots import bybin, curves, depth, heatmap, pareto, style
from pytest_kvbench.report.plots.saved import PAPER, Drawn, empty, save
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series

FOLDER = "plots"
_CURVES = (
    "A bar is the paired interval of delta, drawn from the control's mean: wholly above the dashed "
    "line the cell holds, wholly below it breaks (before the adjustment for many cells)."
)
_FLOOR = "The control's line is the noise floor: the full cache, asked again."
_PARETO = (
    "Bytes are those that the engine measured right after compression. Of arms on the grey line "
    "none is beaten by another in both; a bar is the paired interval, from the control's mean."
)


def draw_all(
    results: Results,
    folder: Path,
    answers: Answers | None = None,
    formats: Sequence[str] = (),
) -> tuple[Image, ...]:
    """Write every plot into `folder`/plots; what an earlier report left there goes.

    Args:
        results: what is drawn.
        folder: the report's.
        answers: one by one, for what no summary holds: where in a prompt a needle stands.
        formats: those of figures for a paper, with their numbers, in `folder`/figures.

    Returns:
        The images in reading order, paths relative to `folder`. None without treated cells.
    """
    empty(folder / FOLDER, ("png",))
    if formats:
        empty(folder / PAPER, (*FORMATS, "csv"))
    measured = [one for one in (results, *results.others) if one.policies]
    if not measured:
        return ()
    with style.house_style():
        every = (drawn for one in measured for drawn in _drawn(one, answers))
        return tuple(save(drawn, folder, formats) for drawn in every)


def _of_distributions(results: Results) -> Iterator[Drawn]:
    """Heatmap and curves alone, with the noise floor drawn in."""
    of, treated = f"-{results.measure}", results.ordered(results.treated())
    for number, figure in enumerate(heatmap.heatmaps(results), start=1):
        alt = f"Heatmap of the change in {results.measure}, task and bin by budget."
        yield Drawn(figure, _image(f"heatmap{of}", str(number), alt), treated)
    for number, series in enumerate(results.series, start=1):
        alt = f"Mean {results.measure} by budget for {series.label}, one curve per policy."
        image = _image(f"curve{of}", f"{number}-{series.slug}", alt, f"{_FLOOR} {_CURVES}")
        cells = results.ordered(results.treated(series))
        yield Drawn(curves.budget_curves(results, series), image, cells)


def _drawn(results: Results, answers: Answers | None) -> Iterator[Drawn]:
    if results.measure != SCORE:
        yield from _of_distributions(results)
        return
    treated = results.ordered(results.treated())
    for number, figure in enumerate(heatmap.heatmaps(results), start=1):
        alt = "Heatmap of delta and verdict: task and bin by budget, one panel per policy."
        yield Drawn(figure, _image("heatmap", str(number), alt), treated)
    for number, series in enumerate(results.series, start=1):
        yield from _of_series(results, series, f"{number}-{series.slug}")
        if answers is not None:
            yield from _by_depth(results, series, f"{number}-{series.slug}", answers)
    points = {s: found for s in results.series if (found := pareto.points(results, s))}
    if points:
        alt = "Mean score by bytes of the KV cache, one panel per task."
        rows = [point for of_series in points.values() for point in of_series]
        figure = pareto.frontier(results, points)
        yield Drawn(figure, _image("pareto", "1", alt, _PARETO), rows)


def _of_series(results: Results, series: Series, slug: str) -> Iterator[Drawn]:
    where = series.label
    curve = f"Mean score by budget for {where}, one curve per policy."
    cells = results.ordered(results.treated(series))
    figure = curves.budget_curves(results, series)
    yield Drawn(figure, _image("curve", slug, curve, _CURVES), cells)
    rows = [row for policy in results.policies for row in results.stats(series, policy)]
    rows = [*results.stats(series, "none"), *rows]
    for kind, quantity in (
        ("accuracy", bybin.ACCURACY),
        ("failures", bybin.FAILURES),
        ("latency", bybin.LATENCY),
    ):
        if bybin.is_worth_drawing(results, series, quantity):
            alt = f"{where}: {quantity.title}, one panel per policy."
            yield Drawn(bybin.by_bin(results, series, quantity), _image(kind, slug, alt), rows)


def _by_depth(results: Results, series: Series, slug: str, answers: Answers) -> Iterator[Drawn]:
    found = depth.squares(answers, series)
    for number, (policy, figure, own) in enumerate(depth.by_depth(results, series, found), 1):
        alt = f"{series.label}: score of {policy} by the needle's depth and the prompt's length."
        yield Drawn(figure, _image("depth", f"{slug}-{number}", alt), own)


def _image(kind: str, slug: str, alt: str, caption: str = "") -> Image:
    return Image(kind, f"{FOLDER}/{kind}-{slug}.png", alt, caption)
