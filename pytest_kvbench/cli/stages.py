"""`kvbench`: the stages without pytest, and the statistics for anybody's scores.

root       the group of all commands
start      init
files      validate, resolve
keeping    controls, archive, restore, trust, clean
groups     compare, save, view
scores     judge, score-file, inspect
batch      batch submit, status, fetch, cancel, export, import
knowledge  aggregate, catalog, best, effects, insights, export
cards      card, reproduce, leaderboard
targets    targets, promote
power      power
waiting    wait
steps      the stages as these commands combine them
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from pytest_kvbench.cli import given, options, reasons, steps
from pytest_kvbench.cli.lines import echo_lines
from pytest_kvbench.cli.root import Root
from pytest_kvbench.errors import (
    UsageError,
)
from pytest_kvbench.experiment.gate import Gate

if TYPE_CHECKING:
    from pytest_kvbench.ops.dry_run import Failures


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pytest-kvbench")
def main() -> None:
    """What a smaller KV cache costs in answer quality."""


@main.command()
@options.experiment
@options.force
def prepare(group_or_yaml: str, reports: Path, sets: tuple[str, ...], force: bool) -> None:
    """Choose the examples and write the manifest; asks no model."""
    from pytest_kvbench.pipeline.prepare import MANIFEST, prepare_data

    every = given.declared(group_or_yaml, reports, sets)
    for declared in every:
        manifests = prepare_data(declared, given.site(reports, every, force=force))
        for manifest in manifests.values():
            counts = ", ".join(
                f"bin {b.index} ({b.label}): {len(manifest.of_bin(b.index))}" for b in manifest.bins
            )
            click.echo(f"{manifest.task}: {counts}")
        click.echo(reports / declared.experiment.group / MANIFEST)


@main.command()
@options.asking
def run(
    group_or_yaml: str, reports: Path, sets: tuple[str, ...], **how: Unpack[options.How]
) -> None:
    """Answer what is missing."""
    every = given.declared(group_or_yaml, reports, sets)
    site = given.site(reports, every, **how)
    with steps.serving(site) as present:
        for declared in every:
            lacking = steps.ask(steps.prepared_for(declared, site, present), site)
            echo_lines(lacking.lines)
            reasons.note(lacking.reasons)


@main.command()
@options.group
def score(group_or_yaml: str, reports: Path) -> None:
    """Score the answers that have no score yet."""
    for declared in given.declared(group_or_yaml, reports, (), reads=True):
        steps.score(given.opened(declared, reports))


@main.command()
@options.experiment
@options.dry_run
def analyse(
    group_or_yaml: str,
    reports: Path,
    sets: tuple[str, ...],
    dry_run: bool,
    failures: Failures | None,
    to: Path | None,
    as_json: bool,
) -> None:
    """Judge the scores, by other rules with --set gate.KEY=VALUE; write summary.json.

    With --dry-run nothing is stored and nobody asked: the verdicts are printed.
    """
    for text in sets:
        if not text.startswith("gate."):
            raise UsageError(
                f"--set {text}: what was asked is settled, only its judgement can change",
                f"valid: {', '.join(f'gate.{name}' for name in Gate.model_fields)}",
            )
    if dry_run:
        for declared in given.stored(group_or_yaml, reports, sets):
            steps.dry_run_of(declared, reports, failures or "drop", to, as_json)
        return
    if failures or to or as_json:
        raise UsageError(
            "--failures, --to and --json: an analysis that is stored has its own rules and place",
            "add --dry-run, which prints verdicts and stores nothing",
        )
    for declared in given.declared(group_or_yaml, reports, sets, ran=True):
        steps.analyse(given.opened(declared, reports), declared.experiment.gate)


@main.command()
@options.group
@click.option("--to", "to", type=click.Path(path_type=Path), help="Elsewhere: a folder per group.")
@options.figures
def report(group_or_yaml: str, reports: Path, to: Path | None, figures: str) -> None:
    """Write report.md, report.html and plots from the analysis."""
    from pytest_kvbench.pipeline import conclude
    from pytest_kvbench.report.formats import formats_of

    formats = formats_of(figures, "--figures")
    for declared in given.declared(group_or_yaml, reports, (), reads=True):
        folder = to / declared.experiment.group if to else None
        prepared = given.opened(declared, reports)
        click.echo(conclude.report(prepared, folder=folder, figures=formats))


@main.command("all")
@options.asking
def all_stages(
    group_or_yaml: str, reports: Path, sets: tuple[str, ...], **how: Unpack[options.How]
) -> None:
    """Prepare, run, score, analyse and report."""
    every = given.declared(group_or_yaml, reports, sets)
    site = given.site(reports, every, **how)
    with steps.serving(site) as present:
        for declared in every:
            steps.take_all(declared, site, present)
