"""`kvbench`: the stages without pytest, and the statistics for anybody's scores.

root       the group of all commands
start      init
files      validate, resolve
keeping    controls, archive, restore, trust, clean
groups     compare, save, view
scores     judge, score-file, inspect
batch      batch submit, status, fetch, cancel, export, import
knowledge  aggregate, catalog, best, effects, insights, export
targets    targets, promote
power      power
waiting    wait
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from pytest_kvbench.cli import (
    batch,
    files,
    given,
    groups,
    keeping,
    knowledge,
    options,
    policies,
    posterior,
    power,
    reasons,
    scores,
    serve,
    start,
    targets,
    waiting,
)
from pytest_kvbench.cli.lost import Lost, lost_of
from pytest_kvbench.cli.root import Root
from pytest_kvbench.errors import (
    InfrastructureError,
    KvbenchError,
    MissingPrerequisiteError,
    UsageError,
)
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.experiment.load import Declared

if TYPE_CHECKING:
    from pytest_kvbench.ops.dry_run import Failures
    from pytest_kvbench.pipeline.group import Prepared, Site
    from pytest_kvbench.rows import Summary


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
    with _serving(site) as present:
        for declared in every:
            lacking = _ask(_prepared(declared, site, present), site)
            for line in lacking.lines:
                click.echo(line)
            reasons.note(lacking.reasons)


@main.command()
@options.group
def score(group_or_yaml: str, reports: Path) -> None:
    """Score the answers that have no score yet."""
    for declared in given.declared(group_or_yaml, reports, (), reads=True):
        _score(given.opened(declared, reports))


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
            _dry_run(declared, reports, failures or "drop", to, as_json)
        return
    if failures or to or as_json:
        raise UsageError(
            "--failures, --to and --json: an analysis that is stored has its own rules and place",
            "add --dry-run, which prints verdicts and stores nothing",
        )
    for declared in given.declared(group_or_yaml, reports, sets, ran=True):
        _analyse(given.opened(declared, reports), declared.experiment.gate)


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
    with _serving(site) as present:
        for declared in every:
            prepared, gate = None, declared.experiment.gate
            try:
                prepared = _prepared(declared, site, present)
                _ask(prepared, site)
            except InfrastructureError:
                with contextlib.suppress(KvbenchError):  # what came before it is told, if any
                    _conclude(prepared or given.opened(declared, reports), gate)
                raise
            _conclude(prepared, gate)


for room in (start, files, keeping, groups, knowledge, scores, targets):
    for subcommand in room.COMMANDS:
        main.add_command(subcommand)
for subcommand in (power.power, posterior.posterior, batch.batch, waiting.wait, serve.serve):
    main.add_command(subcommand)
main.add_command(policies.policies)


# -- the stages, as the commands above combine them --------------------------------------------


@contextlib.contextmanager
def _serving(site: Site) -> Iterator[contextlib.ExitStack]:
    """A block at whose end the servers started in it stop, and its stack unwinds."""
    from pytest_kvbench.engines import stop_all
    from pytest_kvbench.files import run_folder

    try:
        with contextlib.ExitStack() as present:
            yield present
    finally:
        stop_all(run_folder(site.run_id))


def _prepared(declared: Declared, site: Site, present: contextlib.ExitStack) -> Prepared:
    from pytest_kvbench.pipeline import conclude
    from pytest_kvbench.pipeline import prepare as prepare_stage
    from pytest_kvbench.pipeline.group import check_engine
    from pytest_kvbench.store.presence import Presence

    check_engine(declared.experiment, site)
    prepared = prepare_stage.prepare(declared, site, conclude.broken_before(declared, site))
    present.callback(Presence(prepared.folder).close)  # its next stage may be waited for
    return prepared


def _ask(prepared: Prepared, site: Site) -> Lost:
    """Ask for the missing answers; returns the failures.

    Raises:
        EngineError: none has an answer, though some were asked.
    """
    from pytest_kvbench.batch.ledger import warn_of_open
    from pytest_kvbench.pipeline import ask
    from pytest_kvbench.pipeline.group import now
    from pytest_kvbench.report.progress import counting
    from pytest_kvbench.store.store import Store

    if prepared.experiment.engine.mode == "batch":
        return batch.pick_up_and_hand_over(prepared)
    warn_of_open(prepared.folder)
    with counting(len(prepared.requests())) as settled:
        ran = ask.run(prepared, site, settled)
    with Store(prepared.database) as store:
        store.finish_run(site.run_id, now())
    tally = ran.tally
    click.echo(
        f"{prepared.experiment.group}: {tally.answered} answered, {tally.failed} failed, "
        f"{tally.stored} stored before, {tally.reused} shared controls reused"
    )
    for sick in ran.sick:
        raise sick
    answered = bool(tally.answered or tally.stored or tally.reused)
    return lost_of(prepared, answered=answered) if tally.failed else Lost()


def _conclude(prepared: Prepared, gate: Gate) -> None:
    from pytest_kvbench.batch.ledger import waiting
    from pytest_kvbench.pipeline.conclude import Wishes, conclude
    from pytest_kvbench.pipeline.ending import of_lines

    group, waits = prepared.experiment.group, waiting(prepared.folder)
    try:
        done = conclude(_judged_by(gate, prepared), Wishes(report=True))
    except MissingPrerequisiteError:
        if not waits:
            raise
        click.echo(f"{group}: {waits}")
        reasons.note(of_lines(group, [waits] if gate.mode == "certify" else []))
        return
    click.echo(f"{group}: {done.scored} answers scored")
    _tell(prepared, done.summary, waits)
    click.echo(done.report)


def _score(prepared: Prepared) -> None:
    from pytest_kvbench.pipeline.conclude import score_plan

    click.echo(f"{prepared.experiment.group}: {score_plan(prepared)} answers scored")


def _analyse(prepared: Prepared, gate: Gate) -> None:
    from pytest_kvbench.batch.ledger import waiting
    from pytest_kvbench.pipeline import conclude

    summary = conclude.analyse(_judged_by(gate, prepared)).summary
    _tell(prepared, summary, waiting(prepared.folder))


def _judged_by(gate: Gate, prepared: Prepared) -> Prepared:
    return replace(prepared, experiment=prepared.experiment.model_copy(update={"gate": gate}))


def _tell(prepared: Prepared, summary: Summary, waits: str) -> None:
    """Print the verdicts, and note the reasons of the exit status."""
    from pytest_kvbench.pipeline.conclude import SUMMARY
    from pytest_kvbench.pipeline.ending import of_summary
    from pytest_kvbench.report import append_step_summary, terminal_lines

    append_step_summary(summary, os.environ)
    last = [*([waits] if waits else []), str(prepared.folder / SUMMARY)]
    for line in terminal_lines(summary, paths=last):
        click.echo(line)
    reasons.note(of_summary(summary, waits=waits))


def _dry_run(
    declared: Declared, reports: Path, failures: Failures, to: Path | None, as_json: bool
) -> None:
    from pytest_kvbench.files import replace_json
    from pytest_kvbench.ops.dry_run import dry_run
    from pytest_kvbench.pipeline.conclude import sealed_summary
    from pytest_kvbench.pipeline.ending import of_summary
    from pytest_kvbench.report import terminal_lines, write_report

    experiment = declared.experiment
    summary = dry_run(given.opened(declared, reports), experiment.gate, failures)
    if as_json:
        click.echo(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(terminal_lines(summary)))
    reasons.note(of_summary(summary))
    if to is not None:
        folder = to / experiment.group
        replace_json(folder / "summary.json", sealed_summary(summary))
        click.echo(write_report(folder, summary), err=as_json)
