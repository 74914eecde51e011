"""What other processes must have as the run's own has it: where names of files and classes lead."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.engines.own import CLASSES as ENGINES
from pytest_kvbench.policies.own import CLASSES as POLICIES


@dataclass(frozen=True)
class Here:
    """What names mean in the run's own process. Plain data.

    Attributes:
        names: by kind, the classes of users that hooks gave names to.
        folder: from which relative files and modules count.
    """

    names: Mapping[str, Mapping[str, str]]
    folder: str


def here() -> Here:
    """What names mean in this process."""
    names = {classes.kind: dict(classes.brought) for classes in (POLICIES, ENGINES)}
    return Here(names, str(Path.cwd()))


def as_at(place: Here, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function where names mean the same; runs in a worker, which loads no conftest.

    A worker's own folder is whatever its provider started it in. Where the node lacks the run's,
    it stays there.
    """
    for classes in (POLICIES, ENGINES):
        classes.bring(place.names[classes.kind])
    if is_worker() and Path(place.folder).is_dir():
        os.chdir(place.folder)
    return function(*args)


def is_worker() -> bool:
    """Whether this is a process of a worker's, and no thread of the controller."""
    return "PARSL_WORKER_POOL_ID" in os.environ
