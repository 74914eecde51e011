"""The content-addressed store: built from groups, shown, and promoted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import given, options

if TYPE_CHECKING:
    from pytest_kvbench.experiment.executor import ExecutorSettings
    from pytest_kvbench.experiment.load import Declared
    from pytest_kvbench.experiment.schema import Experiment
    from pytest_kvbench.ops.targets import Submit
    from pytest_kvbench.pipeline.group import Prepared
    from pytest_kvbench.posterior.draws import Sampler

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
@click.option("--fresh", is_flag=True, help="Ask the arms anew whose runs are not there.")
@click.option(
    "--posterior",
    "samplers",
    type=click.Choice(["nuts", "slice"]),
    multiple=True,
    help="And a posterior of all groups by this sampler, one a model and margin. Repeatable.",
)
@click.option("--csv", "file", type=click.Path(path_type=Path), help="A row a run, all columns.")
def targets(
    names: tuple[str, ...],
    reports: Path,
    sets: tuple[str, ...],
    root: Path,
    fresh: bool,
    samplers: tuple[Sampler, ...],
    file: Path | None,
) -> None:
    """Keep answered groups by content: a target each, a run each arm; asks nobody without --fresh.

    What is there is not made again. With executor.name: parsl its workers build them.
    """
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.sheet import csv_text
    from pytest_kvbench.ops.target_store import RunStore
    from pytest_kvbench.ops.targets import build
    from pytest_kvbench.posterior.draws import Sampling

    every = [one for name in names for one in given.declared(name, reports, sets, reads=True)]
    if every:
        with contextlib.ExitStack() as present:
            groups = [_judged_by(given.opened(one, reports), one.experiment) for one in every]
            if fresh:
                groups = list(_asked_anew(groups, every, reports, root, present))
            submit = present.enter_context(_submitting(every[0].experiment.executor, root))
            done = build(groups, root, submit, [Sampling(sampler) for sampler in samplers])
        lacking = f", {len(done.incomplete)} lack answers" if done.incomplete else ""
        click.echo(
            f"{root}: {hints.count(len(done.made), 'run')} made, {len(done.known)} there "
            f"already{lacking}"
        )
        for name, wrong in done.damaged.items():
            click.echo(f"{name}: was damaged ({wrong}), made again")
        for place, wrong in RunStore(root).damaged().items():
            click.echo(f"{place}: is damaged ({wrong}), left out of the catalog", err=True)
        for name in done.posteriors:
            click.echo(root / "posteriors" / name)
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
    return replace(prepared, experiment=rules, executor=experiment.executor)


def _asked_anew(
    groups: Sequence[Prepared],
    every: Sequence[Declared],
    reports: Path,
    root: Path,
    present: contextlib.ExitStack,
) -> Iterator[Prepared]:
    """The groups with answers of now where the store lacks a run; servers stop with `present`."""
    from pytest_kvbench.engines import stop_all
    from pytest_kvbench.files import run_folder
    from pytest_kvbench.ops.anew import asked_anew
    from pytest_kvbench.report.progress import counting

    site = given.site(reports, every)
    present.callback(lambda: stop_all(run_folder(site.run_id)))
    for group in groups:
        anew, arms = present.enter_context(asked_anew(group, root, site, counting))
        if arms:
            click.echo(f"{group.experiment.group}: {hints.count(arms, 'arm')} asked anew")
        yield anew


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
