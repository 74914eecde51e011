"""A result that is handed on: its card, asked again elsewhere, and beside others."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_kvbench.cli import given, options, reasons, steps
from pytest_kvbench.cli.lines import echo_lines


@click.command()
@options.group
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder (default: cards, where groups are kept).",
)
def card(group_or_yaml: str, reports: Path, to: Path | None) -> None:
    """Write a group's card: plan, identities, figures, verdicts; JSON and Markdown.

    A card is named by its content: the same group has the same card, byte for byte.
    """
    from pytest_kvbench.ops.cards import CARDS, card_of

    for declared in given.declared(group_or_yaml, reports, (), reads=True):
        click.echo(card_of(given.opened(declared, reports)).save(to or reports / CARDS))


_file = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("file", type=_file, metavar="CARD")
@options.reports
@options.sets
@click.option("--trust", is_flag=True, help="Classes and files that it names may be used.")
@options.deadline
def reproduce(
    file: Path, reports: Path, sets: tuple[str, ...], trust: bool, deadline_s: float | None
) -> None:
    """Ask a CARD again here, and compare: equal, differs within noise (both 0), or differs (1).

    Addresses are those of this place: --set engine.base_url=URL. What could not be asked or
    compared is 10.
    """
    from pytest_kvbench.ops.cards import Card, card_of
    from pytest_kvbench.ops.reproduce import declared_again, reproduced

    former = Card.load(file)
    every = declared_again(former, file, given.overrides(sets), trust=trust)
    site = given.site(reports, every, deadline_s=deadline_s)
    with steps.serving(site) as present:
        (again,) = [steps.answered(declared, site, present) for declared in every]
    found = reproduced(former, card_of(again))
    echo_lines(found.lines())
    reasons.note(found.reasons())


@click.command()
@click.argument("files", nargs=-1, required=True, type=_file, metavar="CARD...")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("leaderboard.html"),
    show_default=True,
    help="The page.",
)
def leaderboard(files: tuple[Path, ...], to: Path) -> None:
    """Put several CARDs on one page, by verdict, bytes and n; it needs no network."""
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.card_page import leaderboard as page
    from pytest_kvbench.ops.cards import Card

    replace_text(to, page([Card.load(file) for file in files]))
    click.echo(to)
