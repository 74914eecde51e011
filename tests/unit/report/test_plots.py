"""The pictures: which there are, what their axes say, and that nothing is cut off or empty."""

from __future__ import annotations

import csv
import re
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib import image

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example
from pytest_kvbench.report import ranking, write_report
from pytest_kvbench.report.formats import formats_of
from pytest_kvbench.report.pages.records import Answer, Answers, Arm
from pytest_kvbench.report.plots import bybin, curves, depth, heatmap, pareto, style
from pytest_kvbench.report.results import Results
from pytest_kvbench.report.series import Series
from pytest_kvbench.selection import ManifestEntry
from tests.support.summaries import make_summary

pytestmark = pytest.mark.usefixtures("pictures")
TASK = Series("niah/single")
POLICIES = ("snapkv", "tova", "random", "knorm", "streaming_llm", "expected_attention", "keydiff")
LONG_TASK = "jsonl:folder/of/somebody/who/likes/long/names/questions_of_the_year_before.jsonl"
LONG_POLICY = "./presses_of_ours/compress_by_attention.py:AttentionOfLayersTogetherPress"
SHAPES = {
    "plain": {},
    "one": {"bins": 1, "policies": ("snapkv",), "budgets": (0.2,), "per_bin": 5},
    "one bin": {"bins": 1},
    "one budget": {"budgets": (0.2,)},
    "many": {
        "policies": (*POLICIES, "pyramidkv"),
        "fixed": {"q8_0": 0.53, "fp8": 0.5},
        "budgets": (0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05),
        "failure_rate": 0.03,
        "missing": 5,
    },
    "many bins": {"bins": 9, "policies": ("snapkv", "tova")},
    "most failed": {"bins": 2, "policies": ("snapkv",), "failure_rate": 0.97, "budgets": (0.2,)},
    "names": {
        "bins": 2,
        "tasks": (LONG_TASK, "jsonl:$x^{_2"),
        "policies": (LONG_POLICY, "$\\frac{$", "\u6570\u636e"),
        "budgets": (0.2,),
    },
}


MANY = ("tova", "snapkv", "knorm", "keydiff", "pyramidkv", "streaming_llm", "x", "y", "random")


def texts(figure):
    """All that is written in a figure, drawn or not yet."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def figures(summary):
    results = Results(summary)
    with style.house_style():
        yield from heatmap.heatmaps(results)
        for series in results.series:
            yield curves.budget_curves(results, series)
            for quantity in (bybin.ACCURACY, bybin.FAILURES, bybin.LATENCY):
                if bybin.is_worth_drawing(results, series, quantity):
                    yield bybin.by_bin(results, series, quantity)
            if points := pareto.points(results, series):
                yield pareto.frontier(results, {series: points})
                yield pareto.frontier(results, {series: points, Series("b"): points})


def test_one_file_a_plot_linked_from_the_report(tmp_path):
    report = write_report(tmp_path, make_summary(bins=2, tasks=("a/b", "a-b"), budgets=(0.5, 0.2)))
    names = sorted(p.name for p in (tmp_path / "plots").iterdir())
    each = ("accuracy", "curve", "latency")
    alone = ("heatmap-1.png", "pareto-1.png")
    assert names == sorted([*alone, *(f"{k}-{i}-a-b.png" for k in each for i in (1, 2))])
    text = report.read_text(encoding="utf-8")
    assert all(f"](plots/{name})" in text for name in names)


def test_pictures_are_for_print_and_not_empty(tmp_path):
    write_report(tmp_path, make_summary(bins=2, policies=("snapkv",)))
    for path in (tmp_path / "plots").iterdir():
        pixels = image.imread(path)
        assert pixels.shape[1] <= style.WIDTH * style.DPI
        ink = (pixels[..., :3].min(axis=2) < 0.9).mean()
        assert 0.005 < ink < 0.9, path.name


def test_pictures_of_an_earlier_report_go(tmp_path):
    small = {"bins": 1, "policies": ("snapkv",), "budgets": (0.5,)}
    write_report(tmp_path, make_summary(tasks=("a", "b"), **small))
    assert list((tmp_path / "plots").glob("*-2-b.png"))
    write_report(tmp_path, make_summary(tasks=("a",), **small))
    assert not list((tmp_path / "plots").glob("*-2-b.png"))


def test_nothing_measured_nothing_drawn(tmp_path):
    report = write_report(tmp_path, {"cells": [], "partial": False})
    assert "plots/" not in report.read_text(encoding="utf-8")


OFTEN = ("plain", "many")


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=name, marks=[] if name in OFTEN else [pytest.mark.slow])
        for name, shape in SHAPES.items()
    ],
)
def test_texts_are_large_enough_inside_and_apart(shape):
    for figure in figures(make_summary(**shape)):
        figure.draw_without_rendering()
        _check_ticks(figure)
        _check_titles(figure)
        width, height = figure.bbox.width, figure.bbox.height
        for text in figure.findobj(matplotlib.text.Text):
            if not text.get_text() or not text.get_visible():
                continue
            assert text.get_fontsize() >= style.SMALL
            box = text.get_window_extent()
            if box.width and _is_drawn(text):
                assert box.x0 >= -1, text
                assert box.y0 >= -1, text
                assert box.x1 <= width + 1, text
                assert box.y1 <= height + 1, text


def _is_drawn(text):
    """Ticks outside the axes' limits keep their text but are never drawn."""
    axes = text.axes
    if axes is None or text not in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        return True
    low, high = sorted(axes.get_xlim() if text in axes.get_xticklabels() else axes.get_ylim())
    position = text.get_position()[0 if text in axes.get_xticklabels() else 1]
    return low <= position <= high


def _check_ticks(figure):
    for axes in figure.axes:
        ticks = [t for t in axes.get_xticklabels() if t.get_text() and _is_drawn(t)]
        boxes = sorted((t.get_window_extent() for t in ticks), key=lambda b: b.x0)
        for left, right in pairwise(boxes):
            assert left.x1 <= right.x0 + 1


def _check_titles(figure):
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    for one, other in combinations(boxes, 2):
        assert not (one.overlaps(other) and one.x1 > other.x0 + 1 and other.x1 > one.x0 + 1)


def test_curve_shows_means_intervals_control_and_margin():
    summary = make_summary(policies=("snapkv",))
    (panel, *_) = curves.budget_curves(Results(summary), TASK).axes
    cells = [c for c in summary["cells"] if (c["bin"], c["policy"]) == ("all", "snapkv")]
    cells.sort(key=lambda c: -c["budget"])
    flat = [line.get_ydata() for line in panel.lines]
    control = cells[0]["control_mean"]
    assert any(np.allclose(y, control) for y in flat)
    assert any(np.allclose(y, control - 0.10) for y in flat)
    assert any(np.array_equal(y, [c["treated_mean"] for c in cells]) for y in flat)
    bars = np.array(panel.collections[0].get_segments())[:, :, 1]
    assert np.allclose(bars[:, 0], [max(0, control + c["ci_low"]) for c in cells])
    assert panel.get_xscale() == "log"
    assert "all bins, n=200" in texts(panel.figure)


def test_curve_ticks_are_the_real_budgets():
    budgets = (0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05)
    figure = curves.budget_curves(Results(make_summary(budgets=budgets)), TASK)
    for panel in figure.axes:
        assert sorted(panel.get_xticks()) == sorted(budgets)
        labels = [t.get_text() for t in panel.get_xticklabels() if t.get_text()]
        assert {"0.05", "0.95"} <= set(labels) <= {f"{b:.2f}" for b in budgets}


def test_heatmap_writes_delta_and_verdict_of_every_cell():
    summary = make_summary(bins=3)
    (figure,) = heatmap.heatmaps(Results(summary))
    written = [t for t in texts(figure) if t[-1] in "✓✗?–" and "\n" in t]
    symbols = {"holds": "✓", "breaks": "✗", "undetermined": "?", "not-measured": "–"}
    treated = [c for c in summary["cells"] if c["policy"] != "none"]
    expected = [symbols[c["verdict_holm"]] for c in treated]
    assert sorted(t[-1] for t in written) == sorted(expected)
    worst = min(treated, key=lambda c: c["delta"])
    assert any(t.startswith(f"{worst['delta']:+.2f}".replace("0.", ".")) for t in written)


def test_heatmap_colours_are_symmetric_about_zero():
    for mesh in next(heatmap.heatmaps(Results(make_summary()))).axes[0].images:
        assert mesh.norm.vmin == -mesh.norm.vmax


def test_policies_of_one_budget_share_a_panel():
    summary = make_summary(policies=("snapkv",), fixed={"q8_0": 0.53, "fp8": 0.5})
    (figure,) = heatmap.heatmaps(Results(summary))
    assert [a.get_title() for a in figure.axes if a.images] == ["snapkv", "one budget each"]
    assert {"q8_0 0.53", "fp8 0.50"} <= set(texts(figure))


def test_many_tasks_go_on_to_further_pages_and_none_is_lost():
    tasks = tuple(f"longbench/t{i}" for i in range(21))
    pages = list(heatmap.heatmaps(Results(make_summary(tasks=tasks, policies=("snapkv",)))))
    assert len(pages) > 1
    assert max(p.get_size_inches()[1] for p in pages) <= heatmap.TALLEST + 0.5
    labels = [t for page in pages for t in texts(page)]
    assert all(any(t.startswith(f"{task}\n") for t in labels) for task in tasks)


def test_many_policies_are_the_rows_of_the_heatmap_best_first():
    (figure,) = heatmap.heatmaps(Results(make_summary(policies=MANY, bins=2, budgets=(0.5, 0.3))))
    panels = [a for a in figure.axes if a.images]
    assert [p.get_title().rpartition(", ")[2] for p in panels] == ["n=40", "n=40", "all bins"]
    rows = [label.get_text() for label in panels[0].get_yticklabels()]
    assert (rows[-1], sorted(rows)) == ("random", sorted(MANY))
    assert panels[0].images[0].get_array().shape == (len(MANY), 2)
    means = panels[-1].images[0].get_array().mean(axis=1)
    assert list(means) == sorted(means, reverse=True)


def test_titles_of_a_heatmap_are_apart():
    tasks = ("infinitebench/longdialogue_qa_eng", "infinitebench/longbook_choice_eng")
    shape = {"tasks": tasks, "policies": MANY, "bins": 1, "budgets": (0.5,)}
    with style.house_style():
        pages = list(heatmap.heatmaps(Results(make_summary(**shape))))
    for page in pages:
        page.draw_without_rendering()
        boxes = [a.title.get_window_extent() for a in page.axes if a.images]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_every_row_of_too_many_policies_is_on_some_page():
    many = tuple(f"policy{i}" for i in range(60))
    pages = list(heatmap.heatmaps(Results(make_summary(policies=many, bins=1, budgets=(0.5,)))))
    assert max(p.get_size_inches()[1] for p in pages) <= heatmap.TALLEST + 0.5
    assert {*many} <= {t for page in pages for t in texts(page)}


def test_of_many_policies_those_that_none_beats_and_random_are_told_apart():
    results = Results(make_summary(policies=MANY, bins=1))
    points = pareto.points(results, TASK)
    best = {p["policy"] for p in points if p["best"]} - {"none"}
    figure = pareto.frontier(results, {TASK: points})
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert {*names[1:-2]} == {*best, "random"}
    assert names[-2] == f"{len(MANY) - len(best) - 1} other policies"


def test_arms_of_one_size_stand_side_by_side():
    summary = make_summary(policies=MANY, bins=1)
    for row in summary["bin_stats"]:
        row["kept_bytes_mean"] = row["budget"] * 2**23
    results = Results(summary)
    (panel,) = pareto.frontier(results, {TASK: pareto.points(results, TASK)}).axes
    named = [line for line in panel.lines if line.get_marker() not in ("None", ".", "*")]
    places = [place for line in named for place in line.get_xdata()]
    assert len({*places}) == len(places)
    budgets = results.budgets(results.treated())
    nearest = [min(budgets, key=lambda b: abs(place / 2**23 - b)) for place in places]
    assert nearest == [b for _ in named for b in sorted(budgets)]


def test_of_many_policies_the_panels_stand_as_they_are_ranked():
    results = Results(make_summary(policies=MANY, bins=1))
    order = ranking.ranked(results)
    assert order != [*results.policies]
    panels = curves.budget_curves(results, TASK).axes
    assert [panel.get_title().partition(", ")[0] for panel in panels] == order
    panels = bybin.by_bin(results, TASK, bybin.ACCURACY).axes
    assert [panel.get_title() for panel in panels] == order


def test_there_is_no_picture_of_failures_without_any_and_with_some_it_shows_them():
    assert not bybin.is_worth_drawing(Results(make_summary()), TASK, bybin.FAILURES)
    summary = make_summary(failure_rate=0.1)
    panel = bybin.by_bin(Results(summary), TASK, bybin.FAILURES).axes[0]
    rates = [
        s["fail_rate"]
        for s in sorted(summary["bin_stats"], key=lambda s: s["bin"])
        if (s["policy"], s["budget"]) == ("snapkv", 0.1)
    ]
    assert any(np.array_equal(line.get_ydata(), rates) for line in panel.lines)


def test_bins_are_named_by_their_tokens_and_n():
    figure = bybin.by_bin(Results(make_summary(bins=3)), TASK, bybin.LATENCY)
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert labels == ["256–853\nn=40", "853–1.4k\nn=40", "1.4k–2.0k\nn=40"]


def test_rows_without_a_number_are_left_out():
    summary = make_summary(bins=2, policies=("snapkv",))
    for row in [*summary["bin_stats"], *summary["cells"]]:
        if row["policy"] == "snapkv":
            row |= dict.fromkeys(
                ("acc_mean", "latency_p50", "treated_mean", "delta", "ci_low", "ci_high")
            )
            row |= {"verdict": "not-measured", "verdict_holm": "not-measured"}
    drawn = list(figures(summary))
    assert len(drawn) == 2
    for figure in drawn:
        figure.draw_without_rendering()


def test_settings_of_the_caller_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    write_report(tmp_path, make_summary(bins=1, budgets=(0.5,), policies=("snapkv",)))
    assert dict(matplotlib.rcParams) == before


def lowered(summary, rows, **values):
    for row in rows:
        row |= values
    return Results(summary)


def test_policies_that_look_alike_share_a_panel_and_those_without_a_point_have_none():
    summary = make_summary(bins=2, policies=("snapkv", "tova", "knorm"))
    stats = {p: [r for r in summary["bin_stats"] if r["policy"] == p] for p in ("snapkv", "tova")}
    for one, other in zip(stats["snapkv"], stats["tova"], strict=True):
        one |= {name: other[name] for name in ("acc_mean", "ci_low", "ci_high")}
        one["latency_p50"] = None
    results = Results(summary)
    accuracy = bybin.by_bin(results, TASK, bybin.ACCURACY)
    assert [a.get_title() for a in accuracy.axes] == ["snapkv and tova", "knorm"]
    assert [a.get_title() for a in bybin.by_bin(results, TASK, bybin.LATENCY).axes] == [
        "tova",
        "knorm",
    ]


def test_no_arm_of_the_frontier_is_beaten_in_bytes_and_score():
    found = pareto.points(Results(make_summary()), TASK)
    best = [p for p in found if p["best"]]
    assert 0 < len(best) < len(found)
    for point in found:
        beaten = any(
            p["kept_bytes"] <= point["kept_bytes"]
            and p["score"] >= point["score"]
            and (p["kept_bytes"] < point["kept_bytes"] or p["score"] > point["score"])
            for p in found
        )
        assert beaten is not point["best"]


def test_arms_whose_bytes_nobody_measured_are_on_no_frontier():
    summary = make_summary()
    treated = [r for r in summary["bin_stats"] if r["policy"] != "none"]
    assert not pareto.points(lowered(summary, treated, kept_bytes_mean=None), TASK)


def needles(scores):
    """Answers of a control and snapkv at two budgets: by depth, of prompts in bin 0 and 1."""
    arms = [Arm("none", 1.0), Arm("snapkv", 0.5), Arm("snapkv", 0.2)]
    examples, answers = [], []
    for n, (bin_, at) in enumerate(scores):
        example = Example(f"e{n}", "q", f"c{n}", ("x",), {"depth": at})
        examples.append((TASK.task, ManifestEntry(example, bin_, 10, "", 5)))
        right = (1.0, 1.0, float(at > 0.5))
        answers += [Answer(n, arm, 0, score) for arm, score in enumerate(right)]
    return Answers(("control", "treated"), examples, arms, answers, [])


def test_needles_are_shown_by_depth_and_length_an_arm_a_panel():
    found = depth.squares(needles([(0, 0.1), (0, 0.15), (1, 0.9), (1, 1.0)]), TASK)
    lost = [s for s in found if s["score"] == 0]
    assert [(s["budget"], s["bin"], s["depth_low"], s["n"]) for s in lost] == [(0.2, 0, 0.0, 2)]
    results = Results(make_summary(bins=2, policies=("snapkv",), budgets=(0.5, 0.2)))
    with style.house_style():
        ((policy, figure, _),) = depth.by_depth(results, TASK, found)
    assert policy == "snapkv"
    assert [a.get_title() for a in figure.axes if a.images] == [
        "control",
        "snapkv 0.50",
        "snapkv 0.20",
    ]
    alike = [s | {"score": 1.0} for s in found]
    with style.house_style():
        ((_, figure, _),) = depth.by_depth(results, TASK, alike)
    titles = [a.get_title() for a in figure.axes if a.images]
    assert titles == ["control", "snapkv 0.50, 0.20"]


def test_tasks_without_needles_have_no_picture_of_depth():
    assert not depth.squares(needles([(0, 7)]), TASK)
    assert not depth.squares(needles([(0, 0.5)]), Series("another"))


def test_figures_for_a_paper_are_vector_with_their_fonts_and_numbers(tmp_path):
    summary = make_summary(bins=1, policies=("snapkv",), budgets=(0.5, 0.2))
    write_report(tmp_path, summary, figures=("pdf", "svg"))
    folder = tmp_path / "figures"
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    wanted = {f"{name}.{kind}" for name in names for kind in ("pdf", "svg", "csv")}
    assert {path.name for path in folder.iterdir()} == wanted
    widths = {style.WIDTH, style.COLUMN}
    for pdf in folder.glob("*.pdf"):
        content = pdf.read_bytes()
        assert b"/FontFile2" in content
        box = re.search(rb"/MediaBox \[ *0 0 ([\d.]+)", content)
        assert round(float(box[1]) / 72, 2) in widths
    assert "<text" not in (folder / "heatmap-1.svg").read_text(encoding="utf-8")
    rows = list(csv.DictReader((folder / "heatmap-1.csv").open(encoding="utf-8")))
    treated = [c for c in summary["cells"] if c["policy"] != "none"]
    assert sorted(float(r["delta"]) for r in rows) == sorted(c["delta"] for c in treated)
    before = (folder / "pareto-1.pdf").read_bytes()
    write_report(tmp_path, summary, figures=("pdf",))
    assert (folder / "pareto-1.pdf").read_bytes() == before
    assert not list(folder.glob("*.svg"))


def test_a_format_that_there_is_not_is_named():
    assert formats_of("pdf, svg,pdf", "--figures") == ("pdf", "svg")
    with pytest.raises(UsageError, match="--figures: 'tiff' is no format"):
        formats_of("pdf,tiff", "--figures")
