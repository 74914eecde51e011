"""What a command was given, as the stages take it."""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.settings import Declared, Override, load_stages

if TYPE_CHECKING:
    from pytest_kvbench.stages import Site


def loaded(file: Path, sets: tuple[str, ...]) -> tuple[Declared, ...]:
    """The stages of an experiment FILE, checked."""
    return _checked(load_stages(file, overrides=_overrides(sets)))


def declared(
    name: str, reports: Path, sets: tuple[str, ...], *, ran: bool = False
) -> tuple[Declared, ...]:
    """The stages of a file or a group, checked; of a group as it was prepared, or `ran` last."""
    from pytest_kvbench.declared import find_declared

    return _checked(find_declared(name, reports, _overrides(sets), ran=ran))


def site(reports: Path, *, fresh: bool = False, force: bool = False) -> Site:
    """A run of this process."""
    from pytest_kvbench.stages import Site

    return Site(
        reports=reports,
        run_id=uuid.uuid4().hex[:12],
        owner_pid=os.getpid(),
        command=shlex.join(["kvbench", *sys.argv[1:]]),
        fresh=fresh,
        force=force,
    )


def _overrides(sets: tuple[str, ...]) -> list[Override]:
    return [Override.parse(text) for text in sets]


def _checked(every: tuple[Declared, ...]) -> tuple[Declared, ...]:
    from pytest_kvbench import plan

    for one in every:
        plan.check(one)
    return every
