"""What an experiment FILE declares; nothing is measured, nothing stored."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import given, options


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.sets
def validate(file: Path, sets: tuple[str, ...]) -> None:
    """Check an experiment FILE; say what it would measure."""
    from pytest_kvbench.pipeline import foresee, plan

    for declared in given.loaded(file, sets):
        cells = plan.cells(declared.experiment)
        click.echo(
            f"{file}: valid. group {declared.experiment.group}: {hints.count(len(cells), 'cell')}, "
            f"{plan.treated_cells(declared.experiment)} of them judged"
        )
        for line in foresee.shortcomings(declared.experiment):
            click.echo(f"kvbench: warning: {line}", err=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.sets
def resolve(file: Path, sets: tuple[str, ...]) -> None:
    """Print an experiment FILE merged with its bases, environment and overrides."""
    import yaml

    reports = os.environ.get("KVBENCH_DIR", "reports")
    for position, declared in enumerate(given.loaded(file, sets)):
        click.echo("---\n" * (position > 0), nl=False)
        click.echo(f"# files: {' -> '.join(map(str, declared.files))}")
        click.echo(f"# group: {Path(reports, declared.experiment.group)}")
        executor = declared.experiment.executor.model_dump(mode="json")  # of this run, not stored
        merged = {**declared.experiment.snapshot(), "executor": executor}
        click.echo(yaml.safe_dump(merged, sort_keys=False), nl=False)
