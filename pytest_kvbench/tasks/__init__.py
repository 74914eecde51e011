"""What is asked: tasks by name.

    get_task(name) -> Task -> examples -> bins and selection -> TaskManifest -> manifest.json

One benchmark a file; none is imported before it is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.base import Task

BUILT_IN: Mapping[str, str] = {
    "niah/single": "niah:single",
    "niah/multikey": "niah:multikey",
    "niah/multivalue": "niah:multivalue",
    "niah/multiquery": "niah:multiquery",
    "tracking/variables": "tracking:variables",
    "counting/words": "counting:words",
}
"""Task name -> module of this package and its function from options to the task."""

JSONL = "jsonl:"


def task_names() -> list[str]:
    """The names that need no file, sorted."""
    return sorted(BUILT_IN)


def check_task_name(name: str) -> None:
    """Refuse a name that no task has. Reads no data.

    Raises:
        UsageError: naming the nearest valid names, and all of them.
    """
    if name in BUILT_IN or (name.startswith(JSONL) and name != JSONL):
        return
    near = difflib.get_close_matches(name, task_names(), n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(
        f"unknown task {name!r}.{guess}", f"valid: {', '.join(task_names())}, or {JSONL}PATH"
    )


def get_task(name: str, *, options: Mapping[str, Any] | None = None) -> Task:
    """The task of that name.

    Raises:
        UsageError: an unknown name or option; the message names the valid ones.
    """
    check_task_name(name)
    if name.startswith(JSONL):
        from pytest_kvbench.tasks.jsonl import jsonl

        return jsonl(name.removeprefix(JSONL), options or {})
    module, _, function = BUILT_IN[name].partition(":")
    task: Task = getattr(import_module(f"{__name__}.{module}"), function)(options or {})
    return task
