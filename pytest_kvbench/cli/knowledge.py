"""What all groups say together: gathered, listed, exported."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import options
from pytest_kvbench.cli.lines import echo_lines, leaving_out
from pytest_kvbench.errors import KvbenchError, MissingPrerequisiteError

if TYPE_CHECKING:
    import pandas as pd

    from pytest_kvbench.ops.aggregate import Aggregated
    from pytest_kvbench.pipeline.group import Prepared


_TABLES = ("answers", "runs", "cells")
ALPHA = 0.05


def _gathering(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command over all groups: folders of groups, and the data set's."""
    for decorate in (
        click.option(
            "--data",
            type=click.Path(path_type=Path, file_okay=False),
            help="The data set's folder (default: _aggregate in the first of the folders).",
        ),
        click.option(
            "--dir",
            "reports",
            multiple=True,
            type=click.Path(path_type=Path, file_okay=False),
            default=lambda: [Path(os.environ.get("KVBENCH_DIR", "reports"))],
            show_default="$KVBENCH_DIR or reports",
            help="Where groups and archives are. Repeatable.",
        ),
    ):
        function = decorate(function)
    return function


def _gathered(reports: Sequence[Path], data: Path | None) -> Aggregated:
    """The data set, up to date; what cannot be read is named and left out."""
    from pytest_kvbench.ops.aggregate import FOLDER
    from pytest_kvbench.ops.aggregate import aggregate as aggregated

    done = aggregated(reports, data or reports[0] / FOLDER)
    for source, why in done.skipped.items():
        click.echo(f"kvbench: skipped {source}: {why}", err=True)
    return done


@contextlib.contextmanager
def _data_set(reports: Sequence[Path], data: Path | None) -> Iterator[Path]:
    """The data set's folder, up to date; a copy of our own where the reports are not ours to write.

    The copy is gone after the block.
    """
    from pytest_kvbench.files import may_write, scratch
    from pytest_kvbench.ops.aggregate import FOLDER

    usual = reports[0] / FOLDER
    place = usual if usual.exists() else reports[0]
    if data is not None or not place.exists() or may_write(place):
        yield _gathered(reports, data).folder
        return
    with scratch() as room:
        if usual.exists():
            shutil.copytree(usual, room / FOLDER, copy_function=shutil.copyfile)
        yield _gathered(reports, room / FOLDER).folder


def _frames(reports: Sequence[Path], data: Path | None, *tables: str) -> list[pd.DataFrame]:
    with _data_set(reports, data) as folder:
        return _compared(folder, *tables)


def _compared(folder: Path, *tables: str) -> list[pd.DataFrame]:
    """Tables of a data set, with the columns by which arms are compared."""
    from pytest_kvbench.ops.aggregate import frame
    from pytest_kvbench.ops.recipes import UNREAD, of_scores

    left_out = {"answers": UNREAD}
    return [of_scores(frame(folder, table, left_out.get(table, ()))) for table in tables]


@click.command()
@_gathering
def aggregate(reports: tuple[Path, ...], data: Path | None) -> None:
    """Gather all groups and archives into one Parquet data set; reads only what is new.

    Beside it by_model_*.csv: every arm against the control, policies ranked, and of evidence tasks
    how grounding goes with accuracy.
    """
    done = _gathered(reports, data)
    if done.read:
        from pytest_kvbench.ops.rollups import write_rollups

        answers, runs, cells = _compared(done.folder, *_TABLES)
        write_rollups(done.folder, answers, runs, cells, ALPHA)
    gone = f", {len(done.gone)} kept of groups that are gone" if done.gone else ""
    click.echo(
        f"{done.folder}: {hints.count(done.rows, 'answer')}; "
        f"{hints.count(len(done.read), 'group')} read, "
        f"{done.unchanged} unchanged, {len(done.skipped)} skipped{gone}"
    )


@click.command()
@_gathering
@click.option("--csv", "file", type=click.Path(path_type=Path), help="Write all columns there.")
def catalog(reports: tuple[Path, ...], data: Path | None, file: Path | None) -> None:
    """List all runs, newest first."""
    from pytest_kvbench.ops.catalog import catalog as catalogue
    from pytest_kvbench.ops.listing import catalog_lines

    rows = catalogue(*_frames(reports, data, "runs"))
    _csv(rows, file)
    echo_lines(catalog_lines(rows))


@click.command()
@_gathering
@click.option("--csv", "file", type=click.Path(path_type=Path), help="Write all columns there.")
@click.option(
    "--yaml",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write what holds on every task as MODEL.yaml there: a kv section to extend.",
)
def best(
    reports: tuple[Path, ...], data: Path | None, file: Path | None, folder: Path | None
) -> None:
    """Per model, task and length: the smallest budget that holds, its policy, its cost."""
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.arms import judged_arms
    from pytest_kvbench.ops.best import best as found
    from pytest_kvbench.ops.best import defaults, files
    from pytest_kvbench.ops.listing import best_lines

    arms = judged_arms(*_frames(reports, data, *_TABLES))
    rows = found(arms)
    _csv(rows, file)
    if folder is not None:
        for name, default in files(defaults(arms)).items():
            replace_text(folder / f"{name}.yaml", default.yaml())
            click.echo(folder / f"{name}.yaml", err=True)
    echo_lines(best_lines(rows))


@click.command()
@_gathering
@options.alpha
@click.option("--csv", "file", type=click.Path(path_type=Path), help="Write all columns there.")
def effects(reports: tuple[Path, ...], data: Path | None, alpha: float, file: Path | None) -> None:
    """Every arm against the control, then every dial, like for like: all else equal."""
    from pytest_kvbench.ops.arms import judged_arms
    from pytest_kvbench.ops.effects import effects as found
    from pytest_kvbench.ops.listing import effect_lines
    from pytest_kvbench.ops.recipes import with_dials

    tables = _frames(reports, data, *_TABLES)
    rows = found(with_dials(*tables), judged_arms(*tables), alpha)
    _csv(rows, file)
    echo_lines(effect_lines(rows))


@click.command()
@_gathering
@options.alpha
@click.option(
    "--to", "file", type=click.Path(path_type=Path), help="The file (default: DIR/INSIGHTS.md)."
)
def insights(reports: tuple[Path, ...], data: Path | None, alpha: float, file: Path | None) -> None:
    """Write INSIGHTS.md: what moves quality, per model, with intervals."""
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.insights import insights as document
    from pytest_kvbench.report.markup import to_markdown

    answers, runs, cells = _frames(reports, data, *_TABLES)
    file = file or reports[0] / "INSIGHTS.md"
    replace_text(file, to_markdown(document(answers, runs, cells, alpha)))
    click.echo(file)


@click.command()
@click.argument("groups", nargs=-1, metavar="[GROUP]...")
@_gathering
@click.option(
    "--parquet", type=click.Path(path_type=Path), help="The data set, there, with a card."
)
@click.option("--csv", "csv", type=click.Path(path_type=Path), help="Its tables as CSV files.")
@click.option("--inspect", type=click.Path(path_type=Path), help="Logs that Inspect reads.")
@click.option("--artifacts", type=click.Path(path_type=Path), help="As kvbench targets has them.")
def export(
    groups: tuple[str, ...],
    reports: tuple[Path, ...],
    data: Path | None,
    parquet: Path | None,
    csv: Path | None,
    inspect: Path | None,
    artifacts: Path | None,
) -> None:
    """Export for other tools: tables of all groups, logs and artifacts of GROUPs (default: all)."""
    from pytest_kvbench.pipeline.group import open_group

    if not any((parquet, csv, inspect, artifacts)):
        raise click.UsageError("say what: --parquet, --csv, --inspect or --artifacts DIR")
    if parquet:
        from pytest_kvbench.ops.aggregate import frame
        from pytest_kvbench.ops.dataset_card import write_card

        folder = _gathered(reports, parquet).folder
        write_card(folder, set(frame(folder, "runs")["group"]))
        click.echo(folder)
    if csv:
        from pytest_kvbench.ops.aggregate import frame

        with _data_set(reports, data) as folder:
            for table in _TABLES:
                _csv(frame(folder, table), csv / f"{table}.csv")
    for folder in _folders(groups, reports) if inspect or artifacts else ():
        prepared = None
        with leaving_out(folder, KvbenchError, named=bool(groups)):
            prepared = open_group(folder)
        with leaving_out(folder, MissingPrerequisiteError, named=bool(groups)):
            if prepared is not None:
                _export_group(prepared, inspect, artifacts)


def _folders(groups: Sequence[str], reports: Sequence[Path]) -> list[Path]:
    from pytest_kvbench.store.places import group_folders

    if groups:
        return [reports[0] / group for group in groups]
    return [group for folder in reports for group in group_folders(folder)]


def _export_group(prepared: Prepared, inspect: Path | None, artifacts: Path | None) -> None:
    from pytest_kvbench.ops.inspect_logs import export_inspect
    from pytest_kvbench.ops.targets import build

    group = prepared.folder.name
    if inspect:
        click.echo(f"{inspect}: {len(export_inspect(prepared, inspect))} logs of {group}")
    if artifacts:
        done = build([prepared], artifacts)
        lacking = f", {len(done.incomplete)} lack answers" if done.incomplete else ""
        click.echo(
            f"{artifacts}: {hints.count(len(done.made), 'arm')} of {group}, "
            f"{len(done.known)} there already{lacking}"
        )


def _csv(rows: pd.DataFrame, file: Path | None) -> None:
    from pytest_kvbench.files import replace_text
    from pytest_kvbench.ops.sheet import csv_text

    if file is not None:
        replace_text(file, csv_text(rows))
        click.echo(file, err=True)
