"""The answers of a group's plan as they are stored, complete enough to be judged.

No prompt is made again, so that neither the data nor the code of a task need to be there: an answer
belongs to the plan by its arm, example and replicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.experiment.schema import Experiment, Variant
from pytest_kvbench.hints import command
from pytest_kvbench.observation import Observation
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.observe import observations
from pytest_kvbench.pipeline.rounds import drawn_so_far
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Arm, Cell, Example, Prompt, Request
from pytest_kvbench.store.store import RunRow, Store
from pytest_kvbench.tasks.base import Task


@dataclass(frozen=True)
class StoredRequest(Request):
    """A request known by the key it was stored under, "" where it never was."""

    stored_key: str = ""

    @property
    def key(self) -> str:
        """The key in the database."""
        return self.stored_key


@dataclass(frozen=True)
class Observed:
    """The plan, what came of it (`observe.observations`), and the last run.

    `judged` are the observations that are judged: the votes, where samples vote.
    """

    planned: Sequence[tuple[Cell, Request]]
    rows: Sequence[Observation]
    judged: Sequence[Observation]
    run: RunRow


def observed(prepared: Prepared) -> Observed:
    """What a group holds. Changes nothing, needs no data.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    group = prepared.experiment.group
    with Store(prepared.database, reads=True) as store:
        planned = drawn_so_far(prepared, store, list(_planned(prepared, store.latest_keys())))
        rows = observations(prepared, store, planned)
        run = store.runs()[-1]
    if not rows:
        raise MissingPrerequisiteError(
            f"group {group}: nothing has been answered yet",
            f"run it: {command('run', prepared.folder)}",
        )
    if any(row.outcome.is_unscored for row in rows):
        raise MissingPrerequisiteError(
            f"group {group}: some answers have no score",
            f"score them: {command('score', prepared.folder)}",
        )
    return Observed(planned, rows, votes(rows, prepared.experiment, prepared.manifests), run)


def _planned(
    prepared: Prepared, keys: Mapping[tuple[Any, ...], str]
) -> Iterator[tuple[Cell, Request]]:
    experiment = prepared.experiment
    blank = dict.fromkeys(experiment.tasks, cast("Task", _Blank()))
    target = plan.Target(prepared.fingerprint, prepared.replicate_offset)
    cells = plan.cells(experiment)
    ids: dict[str, list[str]] = {}
    for cell, request in plan.requests(experiment, cells, prepared.manifests, blank, target):
        arm = request.arm
        if arm.arm_id not in ids:
            ids[arm.arm_id] = _arm_ids(experiment, arm)
        asked = (request.task, request.example_id, request.replicate, request.aa)
        found = (key for i in ids[arm.arm_id] if (key := keys.get((i, *asked))) is not None)
        yield cell, StoredRequest(**_fields(request), stored_key=next(found, ""))


def _arm_ids(experiment: Experiment, arm: Arm) -> list[str]:
    """The arm's id, then those by which an equal variant may have asked the same first."""
    ways, own = {"": Variant(), **experiment.ways}, experiment.ways[arm.variant]
    # Sampling is the arm's own, whatever the variant is called.
    twins = [n for n, w in ways.items() if (w.before, w.after) == (own.before, own.after)]
    return [arm.arm_id, *(replace(arm, variant=twin).arm_id for twin in twins)]


def _fields(request: Request) -> dict[str, Any]:
    """The fields of a request, without what it has cached."""
    return {name: getattr(request, name) for name in Request.__dataclass_fields__}


class _Blank:
    """A task whose prompts say nothing."""

    def prompt(self, example: Example) -> Prompt:
        return Prompt("", example.question, 1)
