"""The tasks that a project's conftest files bring, for who runs no test session."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.plugin.options import tasks_of

if TYPE_CHECKING:
    from pytest_kvbench.tasks.registry import TaskFactory

_OURS = "kvbench"  # the entry point: found where plugins are not loaded by themselves, too


class _Asked:
    """A plugin that asks the loaded conftests for their tasks, and ends the session."""

    def __init__(self) -> None:
        self.tasks: Mapping[str, TaskFactory] = {}
        self.error: BaseException | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> Iterator[None]:
        # pytest-cov would begin here, and erase what the last session has measured.
        early_config.known_args_namespace.cov_source = []
        with self._noting():
            yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        with self._noting():
            self.tasks = tasks_of(config)
        return 0

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # a conftest may end with SystemExit
            self.error = error
            raise


def conftest_tasks(root: Path, conftests: Sequence[Path]) -> Mapping[str, TaskFactory]:
    """The tasks that conftest files give by `pytest_kvbench_tasks`, loaded as pytest loads them.

    Args:
        root: the project's; no conftest above it is loaded.
        conftests: of these files, and of the folders between them and the root.

    Raises:
        UsageError: one of them cannot be imported, or pytest cannot be started there.
    """
    asked, output = _Asked(), io.StringIO()
    above = [f"--rootdir={root}", f"--confcutdir={root}"]
    args = ["-p", _OURS, "--capture=no", *above, *map(str, conftests)]
    with _quiet(output):
        try:
            status: int = pytest.main(args, plugins=[asked])
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a conftest may end with SystemExit
            asked.error, status = asked.error or error, 1
    if status or asked.error:
        raise _refused(root, asked.error, output.getvalue())
    return asked.tasks


@contextlib.contextmanager
def _quiet(output: io.StringIO) -> Iterator[None]:
    """What a conftest prints is no part of a command's output."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _refused(root: Path, error: BaseException | None, output: str) -> UsageError:
    """A conftest's own error, or what pytest said that it refused."""
    cause = getattr(error, "cause", error)  # of pytest's own wrapper
    if cause is None or isinstance(cause, pytest.UsageError):
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        why = str(cause or (lines[-1] if lines else "pytest said nothing"))
        return UsageError(
            f"{root}: pytest cannot be started to ask its conftest.py for tasks: "
            f"{' '.join(why.split())}",
            "see what it says: pytest --collect-only",
        )
    if isinstance(cause, UsageError):
        return cause
    where = getattr(error, "path", root)
    message = " ".join(f"{type(cause).__name__}: {cause}".split())
    return UsageError(
        f"{_shown(where)}: cannot be asked for tasks: {message}",
        "mend it: pytest loads it too, see pytest --collect-only",
    )


def _shown(path: Path) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)
