"""Why a command does not end with 0: noted while its stages go on, printed last."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from pytest_kvbench.errors import EXIT_FOUND, KvbenchError

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.ending import Reason


def note(reasons: Iterable[Reason], *, printed: bool = False) -> None:
    """Note reasons of the exit status; the command goes on. `printed`: they need no line."""
    _noted(click.get_current_context()).extend((reason, printed) for reason in reasons)


def note_found(line: str, *, printed: bool = False) -> None:
    """Note a bad finding of a command that did what it was asked for."""
    from pytest_kvbench.pipeline.ending import Reason

    note([Reason(EXIT_FOUND, line)], printed=printed)


def end(ctx: click.Context, error: KvbenchError | None = None) -> None:
    """Exit with the gravest status of the noted reasons and of the error, reasons printed last."""
    if error is not None:
        click.echo(f"kvbench: {error}", err=True)
    if not _noted(ctx):
        if error is not None:
            sys.exit(error.exit_status)
        return
    from pytest_kvbench.pipeline.ending import Reason, last_lines, status_of

    stopped = [Reason.of(error)] if error is not None else []
    status = status_of([*stopped, *(reason for reason, _ in _noted(ctx))])
    gravest = [entry for entry in _noted(ctx) if entry[0].status == status]
    unprinted = [reason for reason, printed in gravest if not printed]
    if status != status_of(stopped):  # else its two lines are the last
        for line in last_lines(unprinted):
            click.echo(line, err=True)
    sys.exit(status)


def _noted(ctx: click.Context) -> list[tuple[Reason, bool]]:
    noted: list[tuple[Reason, bool]] = ctx.find_root().ensure_object(list)
    return noted
