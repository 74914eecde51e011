"""Hooks that a conftest or another plugin may implement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_kvbench.tasks.registry import TaskFactory


@pytest.hookspec
def pytest_kvbench_tasks() -> Mapping[str, TaskFactory]:
    """Bring tasks of your own: name -> function from the task's options to the task.

    They win over the built-in ones. In a conftest.py::

        from pytest_kvbench.tasks.rows import RowTask

        ROWS = [{"question": "Capital of Italy?", "context": "...", "answers": ["Rome"]}]

        def capitals(options):
            return RowTask(name="mine/capitals", rows=lambda: ROWS, **options)

        def pytest_kvbench_tasks():
            return {"mine/capitals": capitals}
    """
    raise NotImplementedError


@pytest.hookspec
def pytest_kvbench_policies() -> Mapping[str, str]:
    """Give classes of your own names as policies: name -> class, which no collection imports.

    A file counts from the folder of the conftest. In one::

        def pytest_kvbench_policies():
            return {"mine": "./mypress.py:MyPress"}  # or "mypkg.press:MyPress"
    """
    raise NotImplementedError


@pytest.hookspec
def pytest_kvbench_engines() -> Mapping[str, object]:
    """Give engines of your own names, for `engine.name`: name -> class, or object, with `generate`.

    Named as text, no collection imports it; a file counts from the folder of the conftest. In a
    conftest.py::

        def pytest_kvbench_engines():
            return {"mine": "./myengine.py:MyEngine"}  # or "mypkg.engine:MyEngine", or MyEngine
    """
    raise NotImplementedError
