"""Failed requests in a command that only asks and judges nothing: its lines and exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_kvbench.errors import EngineError

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.ending import Reason
    from pytest_kvbench.pipeline.group import Prepared


@dataclass(frozen=True)
class Lost:
    """Why requests failed, in lines, and the reasons of the exit status that follows."""

    lines: Sequence[str] = ()
    reasons: Sequence[Reason] = ()


def lost_of(prepared: Prepared, *, answered: bool = True) -> Lost:
    """The failed requests of a group's plan. `answered`: whether any request has an answer.

    Raises:
        EngineError: not one of its requests has an answer.
    """
    from pytest_kvbench.pipeline.drawn import drawn_so_far
    from pytest_kvbench.pipeline.ending import of_lost
    from pytest_kvbench.pipeline.observe import lost_cells
    from pytest_kvbench.report.failed import failure_lines, failure_messages
    from pytest_kvbench.store.store import Store

    group = prepared.experiment.group
    with Store(prepared.database) as store:
        planned = drawn_so_far(prepared, store, prepared.requests())
        failed = store.failures([request.key for _, request in planned])
        cells = lost_cells(prepared, store, planned)
    messages = failure_messages(failed)
    if not messages:  # what failed was no part of the plan as it is now
        return Lost()
    if not answered:
        raise EngineError(
            f"group {group}: none of {len(failed):,} requests was answered: "
            f"{messages[0]['message']}",
            "mend what it says and run again: what failed is asked again",
        )
    return Lost(failure_lines(messages, len(failed)), of_lost(group, cells, messages))
