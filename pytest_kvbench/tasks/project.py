"""Tasks of a conftest, found by the project's root and loaded when one is asked for."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import UNCONFIRMED, is_unconfirmed
from pytest_kvbench.tasks.registry import TaskFactory, check_task_name

Load = Callable[[Path, Sequence[Path]], Mapping[str, TaskFactory]]
"""From a root and conftest files to the tasks they bring; raises UsageError."""

CONFTEST = "conftest.py"
HOOKS = b"pytest_kvbench_"
FOLDERS = 2_000
"""So many folders of a project are looked into, the upper ones first."""

_MARKS = (
    *("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"),
    *("pyproject.toml", "tox.ini", "setup.cfg", "setup.py"),
)
_FOREIGN = frozenset({"node_modules", "site-packages", "__pycache__"})
_ANYBODYS = stat.S_ISVTX | stat.S_IWOTH  # as /tmp


class ProjectTasks(Mapping[str, TaskFactory]):
    """The tasks of the projects around some folders, as `pytest_kvbench_tasks` brings them.

    Conftests are loaded when a task is asked for by a name that nothing else has, or where one
    mentions a hook of ours: its tasks win over others of their name.

    Args:
        starts: folders of projects, the first wins.
        load: loads conftests.
    """

    def __init__(self, starts: Iterable[Path], load: Load) -> None:
        found: dict[Path, list[Path]] = {}
        for start in map(Path.resolve, starts):
            if any(map(is_unconfirmed, (start, *start.parents))):
                continue
            found.setdefault(root_of(start), []).append(start)
        self._projects = [Project(root, tuple(inside), load) for root, inside in found.items()]

    def __getitem__(self, name: str) -> TaskFactory:
        """The task of that name.

        Raises:
            UsageError: a conftest cannot be loaded.
        """
        ours = _is_ours(name)
        for project in self._projects:
            if (project.bringing or not ours) and name in project.tasks:
                return project.tasks[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(chain.from_iterable(p.tasks for p in self._projects)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def load(self) -> None:
        """Load the conftests that mention a hook of ours, for what they bring beside tasks.

        Raises:
            UsageError: one cannot be loaded.
        """
        for project in reversed(self._projects):
            if project.bringing:
                project.tasks  # noqa: B018 -- loads them


@dataclass(frozen=True)
class Project:
    """A project's root, and the folders in it that somebody works in."""

    root: Path
    starts: Sequence[Path]
    load: Load

    @cached_property
    def bringing(self) -> Sequence[Path]:
        """The conftest files that mention a hook of ours."""
        every = dict.fromkeys([*self._on_the_way, *_conftests_below(self.root)])
        return [file for file in every if _mentions(file)]

    @cached_property
    def tasks(self) -> Mapping[str, TaskFactory]:
        """The tasks that its conftests bring, and those of the folders between, by name.

        Raises:
            UsageError: one cannot be loaded.
        """
        files = list(dict.fromkeys([*self.bringing, *self._on_the_way]))
        return self.load(self.root, files) if files else {}

    @cached_property
    def _on_the_way(self) -> Sequence[Path]:
        """Conftests of the folders between those that somebody works in and the root."""
        folders = chain.from_iterable((start, *start.parents) for start in self.starts)
        inside = (folder for folder in folders if folder.is_relative_to(self.root))
        files = dict.fromkeys(folder / CONFTEST for folder in inside)
        return [file for file in files if file.is_file()]


def root_of(start: Path) -> Path:
    """Where a folder's project begins: upwards at the nearest file that configures one, else at
    the nearest conftest, else at the folder itself.

    What lies in a folder that anybody may write to, as /tmp, is nobody's project.
    """
    folders = [start]
    for folder in start.parents:
        if _is_anybodys(folder):
            break
        folders.append(folder)
    marked = (f for f in folders if any((f / mark).is_file() for mark in _MARKS))
    with_conftest = (f for f in folders if (f / CONFTEST).is_file())
    return next(marked, None) or next(with_conftest, start)


def _conftests_below(root: Path) -> Iterator[Path]:
    """The conftest files of a project, level by level.

    Of no tool's and no environment's folder, and of none that came out of an archive.
    """
    waiting, visited = deque([root]), 0
    while waiting and visited < FOLDERS:
        folder, visited = waiting.popleft(), visited + 1
        entries = _listed(folder)
        if "pyvenv.cfg" in entries or UNCONFIRMED in entries:
            continue
        if CONFTEST in entries:
            yield folder / CONFTEST
        inner = sorted(name for name, is_folder in entries.items() if is_folder)
        waiting += [folder / n for n in inner if n not in _FOREIGN and not n.startswith(".")]


def _listed(folder: Path) -> Mapping[str, bool]:
    """The names in a folder, and whether each is a folder; links are followed nowhere."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError:
        return {}


def _is_ours(name: str) -> bool:
    try:
        check_task_name(name)
    except UsageError:
        return False
    return True


def _is_anybodys(folder: Path) -> bool:
    try:
        return folder.stat().st_mode & _ANYBODYS == _ANYBODYS
    except OSError:
        return False


def _mentions(file: Path) -> bool:
    try:
        return HOOKS in file.read_bytes()
    except OSError:
        return False
