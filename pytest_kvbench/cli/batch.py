"""Requests handed over as files: to a provider's batch API, or to whoever takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import given, options, reasons
from pytest_kvbench.cli.lines import echo_lines
from pytest_kvbench.cli.lost import Lost, lost_of
from pytest_kvbench.experiment.load import Declared

if TYPE_CHECKING:
    from pytest_kvbench.batch.ledger import Batch
    from pytest_kvbench.batch.results import Taken
    from pytest_kvbench.pipeline.group import Prepared


@click.group()
def batch() -> None:
    """Hand requests over as files, and pick the answers up later."""


@batch.command()
@options.experiment
def submit(group_or_yaml: str, reports: Path, sets: tuple[str, ...]) -> None:
    """Hand over what has no answer and is in no open batch."""
    from pytest_kvbench.batch.desk import desk
    from pytest_kvbench.batch.lines import check_addresses

    for declared in given.declared(group_or_yaml, reports, sets):
        check_addresses(declared.experiment)
        if _stage_waits(declared, reports):
            return
        prepared = _prepared(declared, reports)
        with desk(prepared) as open_desk:
            sent = open_desk.submit()
            batches = open_desk.ledger.open
        click.echo(f"{_name(prepared)}: {hints.count(sent.requests, 'request')} submitted")
        _show(batches)


@batch.command()
@options.group
def status(group_or_yaml: str, reports: Path) -> None:
    """Ask how far the open batches are; show all."""
    from pytest_kvbench.batch.desk import desk

    for prepared in _begun(group_or_yaml, reports):
        with desk(prepared) as open_desk:
            open_desk.look()
            waiting = len(open_desk.ledger.open)
            click.echo(
                f"{_name(prepared)}: {hints.count(waiting, 'batch')} {hints.are(waiting)} open"
            )
            _show(open_desk.ledger.batches)
            _note_strange(prepared, open_desk.ledger.open)


@batch.command()
@options.group
def fetch(group_or_yaml: str, reports: Path) -> None:
    """Store the answers of the batches that have ended."""
    from pytest_kvbench.batch.desk import desk

    for prepared in _begun(group_or_yaml, reports):
        with desk(prepared) as open_desk:
            taken = open_desk.fetch()
            batches = open_desk.ledger.open
        _tell(prepared, taken)
        _show(batches)
        _tell_lost(prepared, batches)


@batch.command()
@options.group
@click.option("--forget", is_flag=True, help="Ask no server: give up what is open as it is.")
def cancel(group_or_yaml: str, reports: Path, forget: bool) -> None:
    """End the open batches, and keep what they brought."""
    from pytest_kvbench.batch.desk import desk

    for prepared in _begun(group_or_yaml, reports):
        with desk(prepared) as open_desk:
            taken = open_desk.cancel(forget=forget)
            batches = open_desk.ledger.open
        _tell(prepared, taken)
        _show(batches)


@batch.command()
@options.experiment
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where the files go.",
)
def export(group_or_yaml: str, reports: Path, sets: tuple[str, ...], folder: Path) -> None:
    """Write what has no answer as files for `vllm run-batch`, or for any provider."""
    from pytest_kvbench.batch.portable import export as exported

    for declared in given.declared(group_or_yaml, reports, sets):
        if _stage_waits(declared, reports):
            return
        for file in exported(_prepared(declared, reports), folder):
            click.echo(f"{file.path}: {hints.count(file.requests, 'request')}")


@batch.command("import")
@click.argument("group")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.reports
def import_(group: str, files: tuple[Path, ...], reports: Path) -> None:
    """Store the answers in result FILEs: output and error files, in any order."""
    from pytest_kvbench.batch.portable import take_files
    from pytest_kvbench.pipeline.group import open_group

    prepared = open_group(reports / group, given.tasks(reports))
    _tell(prepared, take_files(prepared, files))
    _tell_lost(prepared, ())


def pick_up_and_hand_over(prepared: Prepared) -> Lost:
    """Fetch finished batches and submit what is missing; the failures, once no batch is open.

    Raises:
        ControlError: a control is not sane, by the answers that are there.
    """
    from pytest_kvbench.batch.desk import desk
    from pytest_kvbench.pipeline.group import now

    with desk(prepared) as open_desk:
        _tell(prepared, open_desk.fetch(share=False))
        sent = open_desk.submit()
        batches = open_desk.ledger.open
        if not batches:
            open_desk.store.finish_run(open_desk.store.runs()[-1].run_id, now())
    click.echo(f"{_name(prepared)}: {hints.count(sent.requests, 'request')} submitted")
    _show(batches)
    for error in sent.sick:
        raise error
    return _noted(prepared, batches)


def _noted(prepared: Prepared, batches: Sequence[Batch]) -> Lost:
    """The failures, once no batch is open; notes batches whose state nobody can tell."""
    _note_strange(prepared, batches)
    return Lost() if batches else lost_of(prepared)


def _note_strange(prepared: Prepared, batches: Sequence[Batch]) -> None:
    from pytest_kvbench.batch.ledger import strange
    from pytest_kvbench.pipeline.ending import of_lines

    reasons.note(of_lines(_name(prepared), strange(batches)))


def _tell_lost(prepared: Prepared, batches: Sequence[Batch]) -> None:
    """Print and note the failures, for a command that ends here."""
    lacking = _noted(prepared, batches)
    echo_lines(lacking.lines)
    reasons.note(lacking.reasons)


def _begun(name: str, reports: Path) -> Iterator[Prepared]:
    """The groups as their last runs left them; of a sweep, the stages that have begun."""
    from pytest_kvbench.store.places import is_group

    every = given.declared(name, reports, ())
    begun = [d for d in every if is_group(reports / d.experiment.group)]
    for declared in begun or every[:1]:
        yield given.opened(declared, reports)


def _stage_waits(declared: Declared, reports: Path) -> bool:
    """Whether a stage has to wait for open batches of the stage before; prints the reason."""
    from pytest_kvbench.batch.ledger import waiting

    before = declared.experiment.after
    reason = waiting(reports / before) if before else ""
    if reason:
        click.echo(f"{declared.experiment.group}: comes after {before}: {reason}")
    return bool(reason)


def _prepared(declared: Declared, reports: Path) -> Prepared:
    from pytest_kvbench.pipeline.before import broken_before
    from pytest_kvbench.pipeline.group import source_of
    from pytest_kvbench.pipeline.prepare import prepare

    site = given.site(reports, [declared])
    source_of(declared.experiment, site).check()
    return prepare(declared, site, broken_before(declared, site))


def _name(prepared: Prepared) -> str:
    return prepared.experiment.group


def _tell(prepared: Prepared, taken: Taken) -> None:
    line = (
        f"{_name(prepared)}: {hints.count(taken.answered, 'answer')} and "
        f"{hints.count(taken.failed, 'failure')} stored"
    )
    click.echo(
        line
        + (f", {hints.count(taken.unknown, 'line')} of no request here" if taken.unknown else "")
    )


def _show(batches: tuple[Batch, ...]) -> None:
    for one in batches:
        done = f"{one.completed + one.failed:,} of {one.requests:,} done"
        click.echo(f"  {one.name} {one.state} {one.status}".rstrip() + f", {done}")
