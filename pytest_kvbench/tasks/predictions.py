"""Anybody's predictions, scored with a task's metric: `kvbench score-file`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score import score_answer
from pytest_kvbench.tasks import TaskFactory, get_task
from pytest_kvbench.tasks.jsonl import read_jsonl

FIELDS = (
    "prediction (text), answers (a list of texts), and what the metric needs (all_classes, ...)"
)


def score_file(
    task: str,
    path: Path,
    *,
    options: Mapping[str, Any] | None = None,
    extra: Mapping[str, TaskFactory] | None = None,
) -> Iterator[dict[str, Any]]:
    """Score a file of predictions. The task's data are not needed.

    Args:
        task: name of the task whose metric is taken.
        path: JSON lines, `{"prediction", "answers", "all_classes"?, ...}`; also read, where given:
            `finish_reason`, `context`, and whatever else the metric needs.
        options: the task's own.
        extra: tasks of a conftest.

    Yields:
        `{"score", "label"}` for every line, in order.

    Raises:
        UsageError: an unknown task, or a line without the needed fields.
    """
    metric = get_task(task, options=options, extra=extra).metric
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            yield _scored(metric, row)
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path}: row {number}: {error}", f"needed: {FIELDS}") from error


def _scored(metric: str, row: Mapping[str, Any]) -> dict[str, Any]:
    prediction, answers = row["prediction"], row["answers"]
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(prediction, str) or not all(isinstance(a, str) for a in answers):
        raise TypeError("prediction or answers are not texts")
    reason = row.get("finish_reason", "stop")
    score = score_answer(metric, prediction, reason, answers, row, row.get("context"))
    return {"score": score.value, "label": score.label}
