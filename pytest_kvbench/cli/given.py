"""From the arguments of a command to what the stages take."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.experiment.load import Declared, Override
from pytest_kvbench.hints import command_of_file
from pytest_kvbench.own.classes import ask_before
from pytest_kvbench.tasks.project import ProjectTasks

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.group import Prepared, Site
    from pytest_kvbench.tasks.registry import TaskFactory

_LINE_S = 30.0
"""Between two lines of what takes long, where they stay."""


def loaded(file: Path, sets: tuple[str, ...]) -> tuple[Declared, ...]:
    """The stages of an experiment FILE, checked."""
    from pytest_kvbench.pipeline.declared import load_stages

    return _checked(load_stages(file, overrides=overrides(sets)), ())


def declared(
    name: str, reports: Path, sets: tuple[str, ...], *, ran: bool = False, reads: bool = False
) -> tuple[Declared, ...]:
    """The stages of a file or a group, checked: see `find_declared`."""
    from pytest_kvbench.pipeline.find import find_declared

    found = find_declared(name, reports, overrides(sets), ran=ran, reads=reads)
    return _checked(found, (reports,))


def stored(name: str, reports: Path, sets: tuple[str, ...]) -> tuple[Declared, ...]:
    """The experiments of the last runs of a file or a group; data and code need not be there."""
    from pytest_kvbench.pipeline.find import find_declared

    return find_declared(name, reports, overrides(sets), ran=True)


def opened(declared: Declared, reports: Path) -> Prepared:
    """The group of an experiment as its last run left it, with the tasks of its project.

    Raises:
        MissingPrerequisiteError: it has not been run.
    """
    from pytest_kvbench.pipeline.group import group_folder, open_group
    from pytest_kvbench.store.places import is_group

    folder = group_folder(declared.experiment, reports)
    if declared.files and not is_group(folder):
        run = command_of_file("run", declared.files[-1], reports)
        raise MissingPrerequisiteError(f"{folder}: no group has been run there", f"make one: {run}")
    return open_group(folder, tasks(reports, of=[declared]))


def tasks(*folders: Path, of: Sequence[Declared] = ()) -> ProjectTasks:
    """The tasks of the projects that experiments, this process, or some folders are in."""
    files = dict.fromkeys(file for one in of for file in reversed(one.files))
    starts = [*(file.parent for file in files), Path.cwd(), *folders]
    found = ProjectTasks(starts, lambda root, conftests: _load(root, tuple(conftests)))
    ask_before(found.load)
    return found


@cache
def _load(root: Path, conftests: tuple[Path, ...]) -> Mapping[str, TaskFactory]:
    from pytest_kvbench.plugin.project import conftest_tasks

    return conftest_tasks(root, conftests)


def site(
    reports: Path,
    of: Sequence[Declared] = (),
    *,
    fresh: bool = False,
    force: bool = False,
    deadline_s: float | None = None,
) -> Site:
    """The place and settings of a run by this process, which begins now."""
    from pytest_kvbench.pipeline.group import Site
    from pytest_kvbench.report.progress import StatusLine

    return Site(
        reports=reports,
        run_id=uuid.uuid4().hex[:12],
        owner_pid=os.getpid(),
        command=shlex.join(["kvbench", *sys.argv[1:]]),
        fresh=fresh,
        force=force,
        ends_at=math.inf if deadline_s is None else time.time() + deadline_s,
        tasks=tasks(reports, of=of),
        say=StatusLine(_LINE_S, "kvbench: ").show,
    )


def overrides(sets: tuple[str, ...]) -> list[Override]:
    """The keys that `--set` overrides, named by it in errors."""
    return [Override.parse(text, "--set") for text in sets]


def _checked(every: tuple[Declared, ...], folders: Sequence[Path]) -> tuple[Declared, ...]:
    from pytest_kvbench.pipeline import certify

    brought = tasks(*folders, of=every)
    for one in every:
        certify.check(one, brought)
    return every
