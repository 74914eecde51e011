"""What commands print line by line."""

from __future__ import annotations

from collections.abc import Iterable

import click


def echo_lines(lines: Iterable[str]) -> None:
    """Print each as it comes; nothing where there are none."""
    for line in lines:
        click.echo(line)
