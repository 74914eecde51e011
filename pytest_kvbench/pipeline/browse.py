"""The answers of a group as a page shows them: stored outcomes with the prompts that were sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from pytest_kvbench.errors import KvbenchError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.records import SCORE, Prompt
from pytest_kvbench.report.pages.group import of_group
from pytest_kvbench.report.pages.packed import AnswersPage
from pytest_kvbench.report.pages.records import Answers
from pytest_kvbench.rows import CellRow
from pytest_kvbench.selection import ManifestEntry
from pytest_kvbench.tasks.base import Task
from pytest_kvbench.tasks.registry import get_task


def answers_page(prepared: Prepared, cells: Iterable[CellRow]) -> AnswersPage:
    """The page of a group's answers, whose rest a command serves."""
    return AnswersPage(answers_of(prepared, cells), command("view", prepared.folder))


def answers_of(prepared: Prepared, cells: Iterable[CellRow]) -> Answers:
    """A group's judged answers, and its prompts where its tasks can make them.

    Args:
        prepared: the group.
        cells: what was made of its scores.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    graded = observed(prepared).judged.where(lambda one: one.cell.measure == SCORE)
    return of_group(prepared.manifests, graded, cells, prompts_of(prepared))


def prompts_of(prepared: Prepared) -> Callable[[ManifestEntry, str, str], Prompt | None]:
    """What was sent for one of its examples, by variant and policy.

    None where its task is not here as it was.
    """
    of_entry = {
        id(entry): manifest.task
        for manifest in prepared.manifests.values()
        for entry in manifest.entries
    }
    task = cache(lambda name: _task(prepared, name))

    def prompt(entry: ManifestEntry, variant: str, policy: str) -> Prompt | None:
        made = task(of_entry[id(entry)]) if id(entry) in of_entry else None
        return None if made is None else _sent(prepared.experiment, made, entry, variant, policy)

    return prompt


def _task(prepared: Prepared, name: str) -> Task | None:
    options = prepared.experiment.options_of(name)
    if prepared.experiment.keeps_no_texts:
        return None
    try:
        return get_task(name, options=options, extra=prepared.extra_tasks)
    except (KvbenchError, OSError, ImportError):
        return None


def _sent(
    experiment: Experiment, task: Task, entry: ManifestEntry, variant: str, policy: str
) -> Prompt | None:
    try:
        return plan.prompt_of(experiment, task, entry, variant, policy)
    except (KvbenchError, OSError, LookupError, ValueError):  # its data or its code are others
        return None
