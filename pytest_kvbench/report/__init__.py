"""From a summary to what people read. Pure: a summary in, files and lines out.

results     the summary, indexed
answers, costs, caveats, tables -> context    what is said, as one frozen document
markup, *.j2    how it looks in Markdown and HTML
pages           answers one by one, for report.html and the page of a comparison
plots           pictures (the only place that imports matplotlib)
terminal, progress    lines for a terminal
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.files import replace_text
from pytest_kvbench.rows import Summary

if TYPE_CHECKING:
    from pytest_kvbench.report.blocks import Image
    from pytest_kvbench.report.pages.packed import AnswersPage
    from pytest_kvbench.report.pages.records import Answers
    from pytest_kvbench.report.results import Results

__all__ = [
    "append_step_summary",
    "append_to_step_summary",
    "notebook_html",
    "step_summary",
    "terminal_lines",
    "write_report",
]

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"

# Imports inside: a session that writes no report loads neither jinja2 nor matplotlib, and one that
# shows no verdict nothing of all this.


def terminal_lines(summary: Summary, width: int = 80, paths: Sequence[str] = ()) -> list[str]:
    """See `terminal.terminal_lines`."""
    from pytest_kvbench.report import terminal

    return terminal.terminal_lines(summary, width, paths=paths)


def write_report(
    folder: Path,
    summary: Summary,
    *,
    plots: bool = True,
    page: AnswersPage | None = None,
    figures: Sequence[str] = (),
) -> Path:
    """Write plots/*.png, report.md and report.html, replacing older ones.

    Args:
        folder: made where it is missing.
        summary: absent parts are left out of the report.
        plots: False skips the pictures (and the seconds they take).
        page: the answers themselves, to go through in report.html.
        figures: formats of figures for a paper, written into figures/.

    Returns:
        The path of report.md.
    """
    from pytest_kvbench.report.context import build
    from pytest_kvbench.report.markup import to_html, to_markdown
    from pytest_kvbench.report.results import Results

    results = Results(summary)
    found = page.found if page else None
    document = build(results, _draw(results, folder, found, figures) if plots else ())
    replace_text(folder / "report.html", to_html(document, folder, page))
    replace_text(folder / "report.md", to_markdown(document))
    return folder / "report.md"


def notebook_html(summary: Summary, room: Path) -> str:
    """The verdicts and figures as a piece of HTML, for a notebook.

    Args:
        summary: as in summary.json.
        room: an empty folder, for figures on their way.
    """
    from pytest_kvbench.report.context import displayed
    from pytest_kvbench.report.markup import to_fragment
    from pytest_kvbench.report.results import Results

    results = Results(summary)
    return to_fragment(displayed(results, _draw(results, room, None, ())), room)


def step_summary(summary: Summary) -> str:
    """The answer alone as Markdown, for a CI job's summary page (`GITHUB_STEP_SUMMARY`)."""
    from pytest_kvbench.report.context import brief
    from pytest_kvbench.report.markup import to_markdown
    from pytest_kvbench.report.results import Results

    return to_markdown(brief(Results(summary)))


def append_step_summary(summary: Summary, environment: Mapping[str, str]) -> None:
    """Append `step_summary` to the file that a CI job names; nothing where none is named."""
    if environment.get(STEP_SUMMARY):
        append_to_step_summary(step_summary(summary), environment)


def append_to_step_summary(markdown: str, environment: Mapping[str, str]) -> None:
    """Append to the file that a CI job names; nothing where none is named.

    A file that cannot be written is the job's trouble, not the measurement's.
    """
    if page := environment.get(STEP_SUMMARY):
        with contextlib.suppress(OSError), Path(page).open("a", encoding="utf-8") as file:
            file.write(markdown + "\n")


def _draw(
    results: Results, folder: Path, answers: Answers | None, formats: Sequence[str]
) -> tuple[Image, ...]:
    from pytest_kvbench.report.plots import draw_all

    return draw_all(results, folder, answers, formats)
