"""Why a command will not end with 0: noted while its stages go on, said last."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from pytest_kvbench.errors import EXIT_FOUND, KvbenchError

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.ending import Reason


def note(reasons: Iterable[Reason]) -> None:
    """The command goes on, and ends with these."""
    noted: list[Reason] = click.get_current_context().find_root().ensure_object(list)
    noted.extend(reasons)


def note_found(line: str) -> None:
    """What was asked for was done, and what it found is bad."""
    from pytest_kvbench.pipeline.ending import Reason

    note([Reason(EXIT_FOUND, line)])


def end(ctx: click.Context, error: KvbenchError | None = None) -> None:
    """End with what was noted, and with the error that stopped the command, in lines on stderr."""
    noted: list[Reason] = ctx.find_root().ensure_object(list)
    if not noted:
        if error is not None:
            click.echo(f"kvbench: {error}", err=True)
            sys.exit(error.exit_status)
        return
    from pytest_kvbench.pipeline.ending import Reason, last_lines, status_of

    if error is not None:
        click.echo(f"kvbench: {error}", err=True)
        noted.append(Reason.of(error))
    for line in last_lines(noted):
        click.echo(line, err=True)
    sys.exit(status_of(noted))
