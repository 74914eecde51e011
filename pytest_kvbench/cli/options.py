"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import click

from pytest_kvbench.hints import SPANS, default_reports, seconds_of

reports = click.option(
    "--dir",
    "reports",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_reports,
    show_default="$KVBENCH_DIR or reports",
    help="Where groups are kept.",
)
figures = click.option(
    "--figures", default="", metavar="FORMATS", help="For a paper: pdf,svg,png, and their numbers."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
sets = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key; repeatable."
)
alpha = click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Two-sided error: intervals are at 1 - alpha.",
)


def span(text: str) -> float:
    """A time span as seconds: `90s`, `30m`, `12h`, `30d`, `2w`.

    Raises:
        click.BadParameter: it is none.
    """
    found = seconds_of(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no span; valid: {SPANS}")
    return found


deadline = click.option(
    "--deadline",
    "deadline_s",
    type=span,
    help="Ask no more after so long: 5m. What is there is judged, and the status is 10.",
)


def group(function: Callable[..., None]) -> Callable[..., None]:
    """What says a group: its name or its file, and the reports folder."""
    return reports(click.argument("group_or_yaml")(function))


def experiment(function: Callable[..., None]) -> Callable[..., None]:
    """What says a group that an experiment's keys decide."""
    return sets(group(function))


class How(TypedDict):
    """How a run asks: anew, although the stored group differs, and for how long at most."""

    fresh: bool
    force: bool
    deadline_s: float | None


force = click.option("--force", is_flag=True, help="Go on where the stored group differs.")


def asking(function: Callable[..., None]) -> Callable[..., None]:
    """What a run is given: an experiment, and `How`."""
    fresh = click.option("--fresh", is_flag=True, help="Ask everything anew, as a new trial.")
    return experiment(fresh(force(deadline(function))))


def dry_run(function: Callable[..., None]) -> Callable[..., None]:
    """Whether to judge without storing, and how."""
    for option in (
        as_json,
        click.option("--to", type=click.Path(path_type=Path), help="A report there."),
        click.option(
            "--failures",
            type=click.Choice(["drop", "zero"]),
            help="A request without a reply: drop its pair (default), or let it score 0.",
        ),
        click.option("--dry-run", is_flag=True, help="Print verdicts, store nothing."),
    ):
        function = option(function)
    return function
