"""The answers of a group's plan as they are stored, complete enough to be judged.

No prompt is made again, so that neither the data nor the code of a task need to be there: requests
go by the prompts that the manifests pin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.hints import command
from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline.drawn import drawn_so_far
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.observe import observations
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Cell, Request
from pytest_kvbench.store.store import RunRow, Store


@dataclass(frozen=True)
class Observed:
    """The plan, what came of it (`observe.observations`), and the last run.

    `judged` are the observations that are judged: the votes, where samples vote.
    """

    planned: Sequence[tuple[Cell, Request]]
    rows: Observations
    judged: Observations
    run: RunRow


def observed(prepared: Prepared) -> Observed:
    """The stored plan of a group with its observations. Changes nothing, needs no data.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    group = prepared.experiment.group
    with Store(prepared.database, reads=True) as store:
        planned = stored_plan(prepared, store)
        rows = observations(prepared, store, planned, texts=True)
        run = store.runs()[-1]
    if not rows:
        raise unanswered(prepared)
    if any(row.outcome.is_unscored for row in rows):
        raise MissingPrerequisiteError(
            f"group {group}: some answers have no score",
            f"score them: {command('score', prepared.folder)}",
        )
    return Observed(planned, rows, votes(rows, prepared.experiment, prepared.manifests), run)


def unanswered(prepared: Prepared) -> MissingPrerequisiteError:
    """The refusal of a group of which nothing is known yet."""
    return MissingPrerequisiteError(
        f"group {prepared.experiment.group}: nothing has been answered yet",
        f"run it: {command('run', prepared.folder)}",
    )


def stored_plan(prepared: Prepared, store: Store) -> Sequence[tuple[Cell, Request]]:
    """The requests that are wanted by now, without prompts."""
    return drawn_so_far(prepared, store, prepared.requests())
