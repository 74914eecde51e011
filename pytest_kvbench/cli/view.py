"""`kvbench view`: a group's report with all its answers, in a browser."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from pytest_kvbench.cli import given, options
from pytest_kvbench.errors import UsageError


@click.command()
@options.group
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="any free",
    help="On 127.0.0.1; other machines cannot ask.",
)
def view(group_or_yaml: str, reports: Path, port: int) -> None:
    """Serve report.html with every prompt and reply from the database, until Ctrl-C; read only."""
    from pytest_kvbench.ops.view import HOST, server_of

    every = given.declared(group_or_yaml, reports, (), reads=True)
    if len(every) > 1:
        names = ", ".join(one.experiment.group for one in every)
        raise UsageError(f"{group_or_yaml} has several groups", f"name one: {names}")
    with server_of(given.opened(every[0], reports), port) as server:
        click.echo(f"http://{HOST}:{server.server_address[1]}/  (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
