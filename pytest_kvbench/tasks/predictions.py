"""Anybody's predictions, scored with a task's metric: `kvbench score-file`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import TextStream, brief
from pytest_kvbench.records import Label, ReasoningRule
from pytest_kvbench.score.metric import score_answer
from pytest_kvbench.tasks.base import Options, Task
from pytest_kvbench.tasks.columns import Row
from pytest_kvbench.tasks.longbench2 import choice_rows
from pytest_kvbench.tasks.prediction_formats import FORMATS, read_prediction
from pytest_kvbench.tasks.registry import TaskFactory, get_task

_NAMED = ("babilong", "infinitebench", "longbench", "ruler")
"""Families of which a row may say its own task: one file of kvpress holds several."""
_MOST = 2**31 - 1  # characters of a CSV's cell: whole contexts, where csv expects 131,072


class Scored(TypedDict):
    """A line of `kvbench score-file`."""

    score: float
    label: Label


def score_file(
    task: str,
    path: Path,
    *,
    options: Options | None = None,
    extra: Mapping[str, TaskFactory] | None = None,
    rule: ReasoningRule = "strip",
) -> Iterator[Scored]:
    """Score a file of predictions. The task's data are not needed.

    Args:
        task: name of the task whose metric is taken; a row that names another one of the same
            family (as kvpress names it, or as `family/name`) is scored by that one's.
        path: JSON lines, a JSON array or a CSV, its rows in one of `prediction_formats.FORMATS`.
            Of our own, `{"prediction", "answers", "all_classes"?, ...}`, are also read, where
            given: `finish_reason`, `context`, and whatever else the metric needs.
        options: the task's own.
        extra: tasks of a conftest.
        rule: what becomes of thoughts in a reply, as `sampling.reasoning`.

    Yields:
        `{"score", "label"}` for every line, in order.

    Raises:
        UsageError: an unknown task, or a row without the needed columns.
    """

    @cache
    def task_of(name: str) -> Task:
        return get_task(name, options=options, extra=extra)

    task_of(task)
    for number, row in enumerate(rows_of(path), start=1):
        try:
            yield _scored(row, task, task_of, rule)
        except ValueError as error:
            formats = "; ".join(map(str, FORMATS))
            raise UsageError(f"{path}: row {number}: {error}", f"known are {formats}") from error
        except UsageError as error:
            raise UsageError(f"{path}: row {number}: {error.what}", error.hint) from error


def _scored(row: Row, name: str, task_of: Callable[[str], Task], rule: ReasoningRule) -> Scored:
    form, prediction = read_prediction(row)
    family = name.partition("/")[0]
    task = task_of(_named(prediction.task, family) or name)
    text = prediction.text
    score = score_answer(
        task.metric,
        form.clean(text, family, task.metric) if form.clean else text,
        prediction.finish_reason,
        prediction.answers,
        {**getattr(task, "shared_meta", {}), **prediction.meta},
        prediction.context,
        rule=rule,
    )
    return {"score": score.value, "label": score.label}


def _named(task: str, family: str) -> str:
    """A row's task as we write it, "" where it names none of the family.

    kvpress says `qasper-e` where LongBench's file is `qasper_e`.
    """
    of, _, name = task.rpartition("/")
    if not name or family not in _NAMED or of not in {"", family}:
        return ""
    return f"{family}/{name.removesuffix('-e')}{'_e' * name.endswith('-e')}"


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file: JSON lines, a JSON array or a CSV.

    Raises:
        UsageError: it is none.
    """
    name = path.name.lower().removesuffix(".gz")
    return _csv_rows(path) if name.endswith(".csv") else choice_rows(path)


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_MOST)
    try:
        rows, row = csv.DictReader(TextStream(path, nul=True)), None
        _check_names(rows.fieldnames or ())
        for row in rows:
            if None in row or None in row.values():
                raise csv.Error("a row has more or fewer cells than the header")
            yield row
        if row is None:
            raise csv.Error("it holds no row")
    except csv.Error as error:
        raise UsageError(f"{path}: is no CSV: {error}", "needed: a header, rows as wide") from error


def _check_names(names: Sequence[str]) -> None:
    for name, times in Counter(filter(None, names)).items():
        if times > 1:
            raise csv.Error(f"the column {brief(name)} is there {times} times")
