"""The stages as commands combine them: servers for a block, asking, concluding, telling."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import given, reasons
from pytest_kvbench.cli.lines import echo_lines
from pytest_kvbench.cli.lost import Lost, lost_of
from pytest_kvbench.errors import InfrastructureError, KvbenchError, MissingPrerequisiteError
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.experiment.load import Declared

if TYPE_CHECKING:
    from pytest_kvbench.ops.dry_run import Failures
    from pytest_kvbench.pipeline.group import Prepared, Site
    from pytest_kvbench.rows import Summary


@contextlib.contextmanager
def serving(site: Site) -> Iterator[contextlib.ExitStack]:
    """A block at whose end the servers started in it stop, and its stack unwinds."""
    from pytest_kvbench.engines import stop_all
    from pytest_kvbench.files import run_folder

    try:
        with contextlib.ExitStack() as present:
            yield present
    finally:
        stop_all(run_folder(site.run_id))


def take_all(declared: Declared, site: Site, present: contextlib.ExitStack) -> None:
    """All stages of an experiment; what there is is concluded also where its servers fail."""
    prepared, gate = None, declared.experiment.gate
    try:
        prepared = prepared_for(declared, site, present)
        ask(prepared, site)
    except InfrastructureError:
        with contextlib.suppress(KvbenchError):  # what came before it is told, if any
            conclude_and_tell(prepared or given.opened(declared, site.reports), gate)
        raise
    conclude_and_tell(prepared, gate)


def answered(declared: Declared, site: Site, present: contextlib.ExitStack) -> Prepared:
    """An experiment with its answers, scored; its verdicts are not this command's."""
    from pytest_kvbench.pipeline.conclude import Wishes, conclude

    prepared = prepared_for(declared, site, present)
    lost = ask(prepared, site)
    echo_lines(lost.lines)
    conclude(prepared, Wishes(report=True))
    return prepared


def prepared_for(declared: Declared, site: Site, present: contextlib.ExitStack) -> Prepared:
    """An experiment with its examples chosen; until the block ends, others see it at work."""
    from pytest_kvbench.pipeline import prepare as prepare_stage
    from pytest_kvbench.pipeline.before import broken_before
    from pytest_kvbench.pipeline.group import check_engine
    from pytest_kvbench.store.presence import Presence

    check_engine(declared.experiment, site)
    prepared = prepare_stage.prepare(declared, site, broken_before(declared, site))
    present.callback(Presence(prepared.folder).close)  # its next stage may be waited for
    return prepared


def ask(prepared: Prepared, site: Site) -> Lost:
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
        from pytest_kvbench.cli import batch

        return batch.pick_up_and_hand_over(prepared)
    warn_of_open(prepared.folder)
    with counting(len(prepared.requests())) as settled:
        ran = ask.run(prepared, site, settled)
    with Store(prepared.database) as store:
        store.finish_run(site.run_id, now())
    tally = ran.tally
    click.echo(
        f"{prepared.experiment.group}: {tally.answered} answered, {tally.failed} failed, "
        f"{tally.stored} stored before, {hints.count(tally.reused, 'shared control')} reused"
    )
    for sick in ran.sick:
        raise sick
    answered = bool(tally.answered or tally.stored or tally.reused)
    return lost_of(prepared, answered=answered) if tally.failed else Lost()


def conclude_and_tell(prepared: Prepared, gate: Gate) -> None:
    """Score, analyse and report; print the verdicts, and note the reasons of the exit status."""
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
    click.echo(f"{group}: {hints.count(done.scored, 'answer')} scored")
    _tell(prepared, done.summary, waits)
    click.echo(done.report)


def score(prepared: Prepared) -> None:
    """Score the answers that have no score yet."""
    from pytest_kvbench.pipeline.conclude import score_plan

    prepared.check_prompts()
    click.echo(f"{prepared.experiment.group}: {hints.count(score_plan(prepared), 'answer')} scored")


def analyse(prepared: Prepared, gate: Gate) -> None:
    """Judge the scores and print the verdicts."""
    from pytest_kvbench.batch.ledger import waiting
    from pytest_kvbench.pipeline import conclude

    prepared.check_prompts()
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
    echo_lines(terminal_lines(summary, paths=last))
    reasons.note(of_summary(summary, waits=waits))


def dry_run_of(
    declared: Declared, reports: Path, failures: Failures, to: Path | None, as_json: bool
) -> None:
    """Print, or write elsewhere, what stored answers say under other rules."""
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
