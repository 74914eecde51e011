"""The content-addressed store: built from groups, shown, and promoted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench.cli import given, options

if TYPE_CHECKING:
    from pytest_kvbench.experiment.executor import ExecutorSettings
    from pytest_kvbench.experiment.schema import Experiment
    from pytest_kvbench.ops.targets import Submit
    from pytest_kvbench.pipeline.group import Prepared

_root = click.option(
    "--runs",
    "root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="The store's folder.",
)


@click.command()
@click.argument("names", nargs=-1, metavar="[GROUP_OR_YAML]...")
@options.reports
@options.sets
@_root
@click.option("--csv", "file", type=click.Path(path_type=Path), help="A row a run, all columns.")
def targets(
    names: tuple[str, ...], reports: Path, sets: tuple[str, ...], root: Path, file: Path | None
) -> None:
    """Keep answered groups by content: a target each, a run each arm; asks nobody.

    What is there is not made again. With executor.name: parsl its workers build them.
    """
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.sheet import csv_text
    from pytest_kvbench.ops.target_store import RunStore
    from pytest_kvbench.ops.targets import build

    every = [one for name in names for one in given.declared(name, reports, sets, reads=True)]
    groups = [_judged_by(given.opened(one, reports), one.experiment) for one in every]
    if groups:
        with _submitting(every[0].experiment.executor, root) as submit:
            done = build(groups, root, submit)
        lacking = f", {len(done.incomplete)} lack answers" if done.incomplete else ""
        click.echo(f"{root}: {len(done.made)} runs made, {len(done.known)} there already{lacking}")
    if file is not None:
        replace_text(file, csv_text(RunStore(root).frame()))
        click.echo(file, err=True)


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_root
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="The stable place.",
)
def promote(ids: tuple[str, ...], root: Path, to: Path) -> None:
    """Copy key figures of runs and posteriors (default: all) to a stable place."""
    from pytest_kvbench.ops.target_store import RunStore

    for made in RunStore(root).promote(ids, to)[:1]:
        click.echo(made)


def _judged_by(prepared: Prepared, experiment: Experiment) -> Prepared:
    rules = prepared.experiment.model_copy(update={"gate": experiment.gate})
    return replace(prepared, experiment=rules)


@contextlib.contextmanager
def _submitting(executor: ExecutorSettings, root: Path) -> Iterator[Submit]:
    """Where nodes are worked on: here, or by the workers that the executor starts for the block."""
    from pytest_kvbench.ops.targets import here

    if executor.name == "local":
        yield here
        return
    from pytest_kvbench.executors.flow import ParslFlow
    from pytest_kvbench.executors.presets import config_of

    folder = root / ".parsl"
    flow = ParslFlow.start(config_of(executor, folder), folder)
    try:
        yield flow.call
    finally:
        flow.close()


COMMANDS: tuple[click.Command, ...] = (targets, promote)
