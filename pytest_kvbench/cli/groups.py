"""What concerns results already there: compared, saved to be compared with, and viewed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from pytest_kvbench.cli import options, reasons
from pytest_kvbench.cli.lines import echo_lines


@click.command()
@click.argument("base")
@click.argument("now")
@options.reports
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="A loss that does not matter.",
)
@options.alpha
@options.as_json
@click.option(
    "--html",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="A page with all answers (default: NOW-against-BASE.html where groups are).",
)
def compare(
    base: str,
    now: str,
    reports: Path,
    margin: float,
    alpha: float,
    as_json: bool,
    html: str | None,
) -> None:
    """Compare NOW with BASE (groups, baselines, or baseline files); exit 1 on a regression.

    A regression is a row whose score is shown to be lower by more than the margin, or that held and
    breaks now. Cells are paired by example where both sides have the same. Cells that were not
    measured, or had other lengths of answers, are not compared: exit 10; 4 where no other is left.
    """
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.baselines import find_side
    from pytest_kvbench.ops.compare_page import Compared, comparison_html, comparison_markdown
    from pytest_kvbench.ops.listing import comparison_lines
    from pytest_kvbench.pipeline.compare import compare as compared
    from pytest_kvbench.pipeline.ending import of_comparison
    from pytest_kvbench.report import append_to_step_summary

    later = find_side(now, reports)
    former = find_side(base, reports, later.name)
    result = compared(former, later, margin=margin, alpha=alpha, names=(base, now))
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    else:
        echo_lines(comparison_lines(result))
    append_to_step_summary(comparison_markdown(result), os.environ)
    if html is not None:
        sides = (Compared.of(base, former, reports), Compared.of(now, later, reports))
        file = Path(html) if html else reports / f"{Path(now).stem}-against-{Path(base).stem}.html"
        replace_text(file, comparison_html(result, *sides))
        click.echo(file, err=as_json)
    reasons.note(of_comparison(result), printed=as_json)


@click.command()
@click.argument("name")
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@options.reports
def save(name: str, groups: tuple[str, ...], reports: Path) -> None:
    """Save the results of GROUPs as the baseline NAME, a plain JSON file each."""
    from pytest_kvbench.ops.baselines import side_of
    from pytest_kvbench.pipeline.baseline import save_baseline, unmeasured
    from pytest_kvbench.pipeline.group import open_group

    for group in groups:
        side = side_of(open_group(reports / group))
        click.echo(save_baseline(side, reports, name))
        if lacking := unmeasured(side):
            click.echo(f"{group}: saved with {lacking}", err=True)
