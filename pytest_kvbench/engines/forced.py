"""What a reply says of arms that were asked about one reply of the full cache, all in one pass."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvbench.divergence.forced import from_choices
from pytest_kvbench.divergence.records import Divergence
from pytest_kvbench.records import Answer, Failure, Request
from pytest_kvbench.wire import sound


def is_forced(choices: Sequence[object]) -> bool:
    """Whether the choices of a reply say how far arms are from the full cache."""
    return any("forced" in sound.fields(choice) for choice in choices)


def divergence_of(choice: object, first: object) -> Divergence | None:
    """What a choice says of its arm, the `first` being the full cache's; None: it says nothing.

    Raises:
        UnsoundError: what it says is no comparison.
    """
    return from_choices(first, choice) if is_forced([choice]) else None


def compared(request: Request, outcome: Answer | Failure) -> Answer | Failure:
    """The outcome of a request; a failure where it asked for a comparison and got none."""
    if not request.arm.method or isinstance(outcome, Failure):
        return outcome
    if outcome.divergence is None:
        return Failure(request.key, "ENGINE_ERROR", "its server compares no distributions")
    return outcome
