"""Why a command will not end with 0: noted while its stages go on, said last."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from pytest_kvbench.errors import EXIT_FOUND, KvbenchError

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.ending import Reason


def note(reasons: Iterable[Reason], *, told: bool = False) -> None:
    """The command goes on, and ends with these; `told` are those that need no line any more."""
    _noted(click.get_current_context()).extend((reason, told) for reason in reasons)


def note_found(line: str, *, told: bool = False) -> None:
    """What was asked for was done, and what it found is bad."""
    from pytest_kvbench.pipeline.ending import Reason

    note([Reason(EXIT_FOUND, line)], told=told)


def end(ctx: click.Context, error: KvbenchError | None = None) -> None:
    """End with what was noted and with the error that stopped the command, the reasons last."""
    if error is not None:
        click.echo(f"kvbench: {error}", err=True)
    if not _noted(ctx):
        if error is not None:
            sys.exit(error.exit_status)
        return
    from pytest_kvbench.pipeline.ending import Reason, last_lines, status_of

    stopped = [Reason.of(error)] if error is not None else []
    status = status_of([*stopped, *(reason for reason, _ in _noted(ctx))])
    untold = [reason for reason, told in _noted(ctx) if reason.status == status and not told]
    if status != status_of(stopped):  # else its two lines are the last
        for line in last_lines(untold):
            click.echo(line, err=True)
    sys.exit(status)


def _noted(ctx: click.Context) -> list[tuple[Reason, bool]]:
    noted: list[tuple[Reason, bool]] = ctx.find_root().ensure_object(list)
    return noted
