"""Which requests of a plan are wanted by now: all, or those of the rounds so far.

Only a plan that is sampled in rounds loads what looks at them.
"""

from __future__ import annotations

from pytest_kvbench.observation import Observations
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.observe import Outcomes, Planned, outcomes_of, stored_outcomes
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.store.store import Store


def drawn_so_far(prepared: Prepared, store: Store, planned: Planned) -> Planned:
    """The requests of a plan that are wanted by now."""
    if not prepared.experiment.sequential:
        return planned
    return _drawn(prepared, planned, stored_outcomes(prepared, store, planned))


def drawn_of(
    prepared: Prepared, planned: Planned, observed: Observations
) -> tuple[Planned, Observations]:
    """The requests of a plan that are wanted by now, and their observations.

    Args:
        prepared: the group.
        planned: its whole plan.
        observed: all its observations.
    """
    if not prepared.experiment.sequential:
        return planned, observed
    judged = votes(observed, prepared.experiment, prepared.manifests)
    wanted = _drawn(prepared, planned, outcomes_of(judged))
    places = {(one.cell, one.outcome.key): place for place, one in enumerate(observed)}
    found = (places.get((cell, request.key)) for cell, request in wanted)
    return wanted, observed.at(place for place in found if place is not None)


def _drawn(prepared: Prepared, planned: Planned, outcomes: Outcomes) -> Planned:
    from pytest_kvbench.pipeline.rounds import drawn  # late: numpy and scipy

    return drawn(prepared.experiment, prepared.manifests, planned, outcomes)
