"""`kvbench wait`: until the answers are there; then what is to be done with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import given, knowledge, options, reasons
from pytest_kvbench.errors import MissingPrerequisiteError, UsageError

if TYPE_CHECKING:
    from pytest_kvbench.batch.targets import Look, Target
    from pytest_kvbench.report.progress import Progress
    from pytest_kvbench.tasks.registry import TaskFactory

_LOG_S = 60.0  # between two lines where nothing can be redrawn
_AGGREGATE = "aggregate"
_NEEDS: Mapping[str, Sequence[str]] = {
    "score": (),
    "analyse": ("score",),
    "report": ("score", "analyse"),
    _AGGREGATE: ("score", "analyse"),  # it gathers what they store
}
"""The stages that may follow, each with those it needs."""


def _stages(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """The stages that were named, in order."""
    names = [name.strip() for text in given for name in text.split(",")]
    return tuple(click.Choice(list(_NEEDS)).convert(name, param, ctx) for name in names)


_seconds = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@options.reports
@click.option(
    "--then",
    "then",
    multiple=True,
    callback=_stages,
    metavar="STAGE[,STAGE]",
    help=f"Do afterwards, with what it needs: {', '.join(_NEEDS)}. Repeatable.",
)
@click.option(
    "--every",
    type=_seconds,
    metavar="SECONDS",
    help="Between two looks (default: 2, and 30 between two questions to a provider).",
)
@click.option(
    "--timeout", type=_seconds, metavar="SECONDS", help="Wait no longer, and say what is missing."
)
@click.pass_context
def wait(
    ctx: click.Context,
    targets: tuple[str, ...],
    reports: Path,
    then: tuple[str, ...],
    every: float | None,
    timeout: float | None,
) -> None:
    """Wait for groups, batches and processes; fetch what batches bring.

    A TARGET is a group or an experiment FILE.yaml (of a sweep: every stage), a batch, or a process:
    pid:1234, or 1234 where no group is called so.

    A group is complete when each request of its plan has an answer, or a failure of its last run. A
    batch is waited for until it ended and is stored; one that failed, expired or was cancelled is
    told with what it leaves unanswered. What nobody is at work on is not waited for.

    Exit status 10 where answers will not come or the time was over; --then is done for the others.
    With --then also what its stages end with, and 1 where a control is not sane.
    """
    from pytest_kvbench.batch import wait

    pace = wait.Pace(timeout_s=timeout)
    if every is not None:
        pace = wait.Pace(every, every, timeout)
    files = [Path(name).parent for name in targets if Path(name).suffix in {".yaml", ".yml"}]
    found = wait.find(targets, reports, pace, given.tasks(*files, reports))
    of_groups = [stage for stage in then if stage != _AGGREGATE]
    if of_groups and all(target.folder is None for target in found):
        raise UsageError(
            f"--then {of_groups[0]}: no group is waited for, only processes",
            f"name a group or a batch too, or do what needs none: --then {_AGGREGATE}",
        )
    with _progress([target.name for target in found]) as show:
        looks = wait.wait(found, pace, show)
    there = [target for target in found if _tell(target, looks[target.name])]
    if there:
        _do(ctx, then, there, reports)
    for target in found if then else ():
        _note_sick(target, given.tasks(*files, reports))


def _tell(target: Target, look: Look) -> bool:
    """Print how the wait for a target ended; returns whether all of it is there."""
    if look.problem:
        click.echo(f"kvbench: {target.name}: {look.problem}", err=True)
        click.echo(look.hint, err=True, nl=bool(look.hint))
        from pytest_kvbench.pipeline.ending import of_lines

        reasons.note(of_lines(target.name, [look.problem]), printed=True)  # it comes not by itself
        return False
    failed = f", {look.count.failed:,} failed" if look.count and look.count.failed else ""
    answers = f", {hints.count(look.count.answered, 'answer')}{failed}" if look.count else ""
    click.echo(f"{target.name}: {look.progress}{answers}")
    return True


def _note_sick(target: Target, tasks: Mapping[str, TaskFactory]) -> None:
    """Note the controls of a group that are not sane: its treatments do not count."""
    if target.folder is None:
        return
    from pytest_kvbench.pipeline.driver import sick_controls
    from pytest_kvbench.pipeline.ending import Reason
    from pytest_kvbench.pipeline.group import open_group
    from pytest_kvbench.store.store import Store

    try:
        prepared = open_group(target.folder, tasks)
    except MissingPrerequisiteError:
        return  # it has not begun
    with Store(prepared.database) as store:
        sick = list(sick_controls(prepared, store))
    reasons.note(Reason.of(error, prepared.experiment.group) for error in sick)


def _do(ctx: click.Context, then: Sequence[str], there: Sequence[Target], reports: Path) -> None:
    """Run the stages and those they need, each once, by the commands of their names."""
    commands = ctx.find_root().command
    assert isinstance(commands, click.Group)  # noqa: S101 -- `kvbench` itself
    groups = dict.fromkeys(target.folder.name for target in there if target.folder)
    for stage in dict.fromkeys(one for last in then for one in (*_NEEDS[last], last)):
        if stage == _AGGREGATE:
            ctx.invoke(knowledge.aggregate, reports=(reports,))
            continue
        for group in groups:
            command = commands.get_command(ctx, stage)
            assert command is not None  # noqa: S101 -- one of _NEEDS
            ctx.invoke(command, group_or_yaml=group, reports=reports)


# -- how far it is -------------------------------------------------------------------------------


@contextmanager
def _progress(names: Sequence[str]) -> Iterator[Callable[[Mapping[str, Look]], None]]:
    """A line on standard error: redrawn on a terminal, elsewhere written where something changed.

    Args:
        names: of all that is waited for.
    """
    from pytest_kvbench.report.progress import Progress, StatusLine

    status = StatusLine(_LOG_S)
    progress: dict[str, Progress] = defaultdict(Progress)
    click.echo(f"waiting for {', '.join(names)}", err=True)

    def show(looks: Mapping[str, Look]) -> None:
        if not status.is_redrawn:
            progress.clear()  # no speed: a line that time alone changes is not worth another
        status.show(_line(looks, progress, status.width))

    try:
        yield show
    finally:
        status.show("")


def _line(looks: Mapping[str, Look], progress: Mapping[str, Progress], width: int) -> str:
    """What is waited for, and how far it is."""
    from pytest_kvbench.report.text import fit

    pending = {name: look for name, look in looks.items() if not look.done}
    parts = [f"{len(looks) - len(pending)} of {len(looks)} done"] if len(looks) > 1 else []
    parts += [f"{name}: {_words(look, progress[name])}" for name, look in pending.items()]
    return fit("; ".join(parts) or "done", width)


def _words(look: Look, progress: Progress) -> str:
    if look.count is None:
        return look.progress
    count = progress.line(look.count.settled, look.count.planned, look.count.failed)
    return f"{count}, {look.progress}" if look.progress else count
