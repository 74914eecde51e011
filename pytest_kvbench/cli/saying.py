"""A word on standard error while something takes long."""

from __future__ import annotations

import sys
import time

import click

LINE_S = 30.0
"""Between two lines where they cannot be redrawn."""


class Saying:
    """Shows a line in place of the one before; an empty one takes it away.

    Where standard error is no terminal, a line now and then.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, line: str) -> None:
        """Show it."""
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)
        elif line and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_S
            click.echo(f"kvbench: {line}", err=True)
