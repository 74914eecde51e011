"""What keeps results: shared controls in order, groups in archives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench import hints
from pytest_kvbench.cli import options, reasons
from pytest_kvbench.cli.lines import echo_lines
from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import CONTROLS
from pytest_kvbench.hints import command

if TYPE_CHECKING:
    from pytest_kvbench.store.upkeep import Finding

_CACHED = Path(".pytest_cache", "d", CONTROLS)


def cached_controls(start: Path) -> Path:
    """Where pytest keeps shared controls for a project: at its root, seen from a folder in it."""
    for folder in (start, *start.parents):
        if (folder / _CACHED.parts[0]).is_dir():
            return folder / _CACHED
    return start / _CACHED


_root = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of shared controls (default: that of pytest's cache here).",
)


# -- controls ------------------------------------------------------------------------------------


@click.group()
def controls() -> None:
    """Look after shared controls: those of pytest's cache, and of groups run without it."""


def _controls(function: Callable[..., None]) -> Callable[..., None]:
    return options.reports(_root(function))


@controls.command("list")
@_controls
@options.as_json
def list_controls(reports: Path, root: Path | None, as_json: bool) -> None:
    """Show every control and the condition it is in."""
    _show(_examine(_roots(reports, root)), as_json=as_json)


@controls.command("verify")
@_controls
@options.as_json
def verify_controls(reports: Path, root: Path | None, as_json: bool) -> None:
    """Show what is not in order; exit 1 where something was lost or altered."""
    from pytest_kvbench.store.upkeep import DAMAGED

    found = _examine(_roots(reports, root))
    wrong = [(where, f) for where, f in found if f.condition not in ("sound", "in use")]
    _show(wrong, as_json=as_json)
    if not as_json:
        click.echo(f"{len(found) - len(wrong)} of {len(found)} in order")
    if damaged := sum(finding.condition in DAMAGED for _, finding in wrong):
        reasons.note_found(f"{damaged:,} of {len(found):,} were lost or altered", printed=as_json)


@controls.command("prune")
@_controls
@click.option(
    "--older-than", type=options.span, help="Also remove what no run used for so long: 30d."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune_controls(reports: Path, root: Path | None, older_than: float | None, yes: bool) -> None:
    """Put right what verify finds; no sound answer is removed, but for --older-than."""
    from pytest_kvbench.store.upkeep import repair

    roots = _roots(reports, root)
    wrong = [
        (where, f)
        for where, f in _examine(roots)
        if f.condition not in ("sound", "in use")
        or (older_than is not None and f.unused_s >= older_than)
    ]
    _show(wrong, as_json=False)
    if not wrong or not (yes or click.confirm(f"put {len(wrong)} right?")):
        return
    for folder in roots:
        echo_lines(repair(folder, older_than))


def _roots(reports: Path, root: Path | None) -> list[Path]:
    if root is not None:
        return [root]
    return [cached_controls(Path.cwd()), *sorted(reports.glob("*/shared_controls"))]


def _examine(roots: Sequence[Path]) -> list[tuple[Path, Finding]]:
    from pytest_kvbench.store.upkeep import examine

    return [(root, finding) for root in roots for finding in examine(root)]


def _show(found: Sequence[tuple[Path, Finding]], *, as_json: bool) -> None:
    if as_json:
        rows = [{"root": str(root), **asdict(finding)} for root, finding in found]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    root = None
    for where, f in found:
        if where != root:
            click.echo(f"{where}:")
            root = where
        line = f"  {f.condition:9} {f.answers:6} answers {f.bytes:10,} B  {f.name}  {f.model}"
        click.echo(f"{line}  {f.detail}".rstrip())
    if not found:
        click.echo("nothing to show")


# -- archives ------------------------------------------------------------------------------------


@click.command()
@click.argument("group")
@options.reports
@_root
@click.option("--to", "target", type=click.Path(path_type=Path, dir_okay=False), help="A new file.")
def archive(group: str, reports: Path, root: Path | None, target: Path | None) -> None:
    """Put a GROUP and the shared controls it used into one file (tar.gz with an index)."""
    from pytest_kvbench.ops.archive import archive_group

    path, index = archive_group(reports / group, root or cached_controls(Path.cwd()), target)
    size = sum(member.bytes for member in index.files)
    click.echo(f"{path}: {hints.count(len(index.files), 'file')}, {size:,} bytes, verified")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@options.reports
@_root
@click.option("--trust", is_flag=True, help="What is in it may be used: it is your own.")
def restore(file: Path, reports: Path, root: Path | None, trust: bool) -> None:
    """Bring a group back from an archive FILE; overwrites nothing.

    What the group would start, ask or send is shown, and refused until `kvbench trust GROUP`. Its
    shared controls join yours with --trust alone.
    """
    from pytest_kvbench.files import is_unconfirmed
    from pytest_kvbench.ops.archive import restore_group

    done = restore_group(file, reports, root or cached_controls(Path.cwd()), trust=trust)
    what = "restored" if done.new else "was there already"
    click.echo(
        f"{done.folder}: {what}, {hints.count(done.files, 'file')}; "
        f"{hints.count(done.controls, 'shared control')}"
    )
    if done.left:
        click.echo(f"{done.left} shared controls stay in the archive: --trust brings them")
    if is_unconfirmed(done.folder):
        _show_claims(done.claims)
        click.echo(f"none of it is done until you confirm it: {command('trust', done.folder)}")


@click.command()
@click.argument("group")
@options.reports
@click.option("--yes", is_flag=True, help="Do not ask.")
def trust(group: str, reports: Path, yes: bool) -> None:
    """Confirm what a restored GROUP would start, ask and send; once."""
    from pytest_kvbench.files import is_unconfirmed
    from pytest_kvbench.store.origin import claims, confirm

    folder = reports / group
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no group", "bring it back: kvbench restore FILE")
    if not is_unconfirmed(folder):
        click.echo(f"{folder}: there is nothing to confirm")
        return
    _show_claims(claims(folder))
    if yes or click.confirm(f"may commands do this for {group}?"):
        confirm(folder)
        click.echo(f"{folder}: confirmed")


def _show_claims(claims: Sequence[str]) -> None:
    click.echo("what it would use:" if claims else "it names no program, no server and no file")
    for line in claims:
        click.echo(f"  {line}")


@click.command()
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@options.reports
@click.option(
    "--min-age",
    type=options.span,
    default="30d",
    show_default=True,
    help="Since a group last changed: 12h, 30d.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@click.option(
    "--archives",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the archives are (default: where the groups are).",
)
def clean(
    groups: tuple[str, ...], reports: Path, min_age: float, dry_run: bool, archives: Path | None
) -> None:
    """Remove GROUPs that an archive verifiably holds; exit 1 where one must stay for lack of it."""
    from pytest_kvbench.ops.archive import clean_group

    for group in groups:
        done = clean_group(reports / group, archives or reports, min_age, dry_run=dry_run)
        if done.blocked:
            reasons.note_found(f"{group}: kept: {done.kept}")
        if done.archive is None:
            click.echo(f"{group}: kept: {done.kept}")
        else:
            verb = "would be removed" if dry_run else "removed"
            click.echo(f"{group}: {verb}, {done.bytes:,} bytes; {done.archive} holds it")
