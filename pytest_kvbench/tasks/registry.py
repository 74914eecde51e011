"""What is asked: tasks by name.

    get_task(name) -> Task -> examples -> bins and selection -> TaskManifest -> manifest.json

One benchmark a file; none is imported before it is asked for. Tasks of users come as an entry point
of the group `pytest_kvbench.tasks`, or as `extra`: in both, a name and a function from options to
the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from inspect import getattr_static

from pytest_kvbench.errors import KvbenchError, UsageError
from pytest_kvbench.reading import brief
from pytest_kvbench.tasks.base import Options, Task, unknown_task

TaskFactory = Callable[[Options], Task]
"""What makes a task from its options."""

GROUP = "pytest_kvbench.tasks"
JSONL, MATH = "jsonl:", "math:"
FILES: Mapping[str, str] = {
    JSONL: "jsonl:jsonl",
    MATH: "math:math",
    "chat:": "chat:chat",
    "kvpress:": "kvpress_rows:kvpress",
}
"""First letters of the name of a file's task -> module and function from path and options."""

BUILT_IN: Mapping[str, str] = {
    "counting/words": "counting:words",
    "evidence/mcq": "evidence_mcq:mcq",
    "niah/multikey": "niah:multikey",
    "niah/multiquery": "niah:multiquery",
    "niah/multivalue": "niah:multivalue",
    "niah/single": "niah:single",
    "reasoning/arithmetic": "reasoning:arithmetic",
    "tracking/variables": "tracking:variables",
}
"""Task name -> module of this package and its function from options to the task."""

FAMILIES: Mapping[str, str] = {
    "babilong": "babilong:babilong",
    "infinitebench": "infinitebench:infinitebench",
    "longbench": "longbench:longbench",
    "longbench2": "longbench2:longbench2",
    "longmemeval": "longmemeval:longmemeval",
    "ruler": "ruler:ruler",
    "ruler_made": "ruler_made:ruler_made",
    "scbench": "scbench:scbench",
}
"""First part of a name -> module and function from the second part and options to the task."""

_PARTS = ("name", "metric", "template_version", "data_version", "generated", "prompt", "examples")
"""Of a task. Looked at without asking: `data_version` may read the data."""

_NAMED = [*(f"{family}/NAME" for family in FAMILIES), *(f"{prefix}PATH" for prefix in FILES)]
_HINT = f", {', '.join(_NAMED)}"


def check_task_name(
    name: str,
    *,
    options: Options | None = None,
    extra: Mapping[str, TaskFactory] | None = None,
) -> None:
    """Refuse a name that no task has. Lists files where a family's data are local; opens none.

    Raises:
        UsageError: naming the nearest valid names, and all of them.
    """
    family, _, rest = name.partition("/")
    if name in BUILT_IN or _prefix(name):
        return
    if extra is not None and name in extra:
        return
    if rest and family in FAMILIES:
        valid = _family_names(family, options or {})
        if name not in valid:
            raise unknown_task(name, valid)
    elif not entry_points(group=GROUP, name=name):
        raise _unknown(name, extra)


def get_task(
    name: str,
    *,
    options: Options | None = None,
    extra: Mapping[str, TaskFactory] | None = None,
) -> Task:
    """The task of that name.

    Args:
        name: as written in an experiment.
        options: the task's own.
        extra: tasks that a conftest brings along, by name; they win over the built-in ones.

    Raises:
        UsageError: an unknown name or option; the message names the valid ones.
    """
    given = options or {}
    if extra is not None and name in extra:
        return _users(name, extra[name], given)
    if name in BUILT_IN:
        return _made(BUILT_IN[name], given)
    if prefix := _prefix(name):
        return _made(FILES[prefix], name.removeprefix(prefix), given)
    family, _, rest = name.partition("/")
    if rest and family in FAMILIES:
        return _made(FAMILIES[family], rest, given)
    for point in entry_points(group=GROUP, name=name):
        return _users(name, point.load(), given)
    raise _unknown(name, extra)


def _users(name: str, factory: TaskFactory, options: Options) -> Task:
    """A user's task; an error of its function becomes two lines."""
    try:
        made = factory(options)
    except KvbenchError:
        raise
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"task {name}: its function cannot make it: {message}",
            f"it was given the options {dict(options)}",
        ) from error
    if lacking := [part for part in _PARTS if getattr_static(made, part, None) is None]:
        raise UsageError(
            f"task {name}: its function made {brief(made)}, which lacks {', '.join(lacking)}",
            "needed: a task, as pytest_kvbench.tasks.rows.RowTask(name=..., rows=...)",
        )
    return made


def _made(target: str, *arguments: object) -> Task:
    module, _, function = target.partition(":")
    task: Task = getattr(import_module(f"{__package__}.{module}"), function)(*arguments)
    return task


def _prefix(name: str) -> str:
    """Of the task of a file: what its name begins with; "" of others."""
    return next((one for one in FILES if name.startswith(one) and name != one), "")


def _family_names(family: str, options: Options) -> list[str]:
    module = FAMILIES[family].partition(":")[0]
    names: list[str] = import_module(f"{__package__}.{module}").names(options)
    return names


def _unknown(name: str, extra: Mapping[str, TaskFactory] | None) -> Exception:
    brought = [*(extra or {}), *(point.name for point in entry_points(group=GROUP))]
    return unknown_task(name, sorted({*BUILT_IN, *brought}), _HINT)
