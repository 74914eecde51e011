"""`kvbench init`: a first experiment, for the servers that are found."""

from __future__ import annotations

from pathlib import Path

import click

from pytest_kvbench.errors import UsageError


@click.command()
@click.argument("urls", nargs=-1, metavar="[CONTROL [TREATED]]")
@click.option("--model", default="", help="Served there (default: the first that is listed).")
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="The treated server's fraction of the bytes, where its kind does not say it.",
)
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The project (default: this folder).",
)
def init(urls: tuple[str, ...], model: str, budget: float, folder: Path) -> None:
    """Write an experiment, its test and a CI workflow; overwrites nothing.

    CONTROL is the address of a server with the full cache, TREATED of the same model with a smaller
    one. Without them: servers at the usual ports of this machine, else the embedded model.
    """
    from pytest_kvbench.ops import starting

    if len(urls) > 2 or len(set(urls)) < len(urls):
        raise UsageError(
            f"{len(urls)} addresses: {', '.join(urls)}",
            "valid: the full cache's, and one of the same model with a smaller cache",
        )
    found = starting.find(urls, model, budget)
    click.echo(f"found: {found.words}")
    for file, is_new in starting.write(found, folder):
        click.echo(f"{file}" if is_new else f"{file}: is there, left as it is")
    test = folder / starting.FILES["test"]
    click.echo(f"next: pytest {test} --kvbench-report")
