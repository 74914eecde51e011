"""What commands print line by line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from pytest_kvbench.errors import KvbenchError


def echo_lines(lines: Iterable[str]) -> None:
    """Print each as it comes; nothing where there are none."""
    for line in lines:
        click.echo(line)


@contextlib.contextmanager
def leaving_out(folder: Path, kind: type[KvbenchError], *, named: bool) -> Iterator[None]:
    """A group that cannot be read or has no answers is said to be left out, if nobody named it."""
    try:
        yield
    except kind as error:
        if named:
            raise
        click.echo(f"{folder}: left out: {error.what}", err=True)
