"""Self-consistency: k samples of an example make one answer, as `score.vote` elects it.

Samples are repetitions like any other, asked, stored and scored one by one: repetition r is sample
`r % k` of trial `r // k`, so that other groups can use them as plain trials. What is judged are the
votes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.observation import Observation, Observations, Outcome, weakest
from pytest_kvbench.records import Cell
from pytest_kvbench.score.vote import Ballot, ballot, elect
from pytest_kvbench.selection import TaskManifest

Sample = TypeVar("Sample")
Read = Callable[[Observation], Ballot]


def votes(
    observed: Observations, experiment: Experiment, manifests: Mapping[str, TaskManifest]
) -> Observations:
    """One observation per vote that has all its samples, in the order of the first ones.

    It is the elected sample's, with the trial in place of the repetition, what all samples cost
    together, the weakest of their proofs and, as `samples`, the keys of their requests. A vote of
    which a sample failed has failed: an answer of fewer samples would be another dial's.

    Args:
        observed: as `observe.observations` gives them; returned where nothing votes.
        experiment: says how many samples each variant draws.
        manifests: the examples, by which ballots are read.
    """
    if not experiment.votes:
        return observed
    metas = {
        (task, entry.example.example_id): entry.example.meta
        for task, manifest in manifests.items()
        for entry in manifest.entries
    }

    def read(sample: Observation) -> Ballot:
        task, text = sample.cell.task, sample.outcome.text or ""
        meta = metas[task, sample.example_id]
        return ballot(manifests[task].metric, text, meta, experiment.sampling.reasoning)

    return Observations(_votes(observed, experiment, read))


def _votes(observed: Observations, experiment: Experiment, read: Read) -> Iterator[Observation]:
    drawn: dict[tuple[Cell, str, bool, int], list[int]] = {}
    for place, sample in enumerate(observed):
        trial = sample.replicate // experiment.samples_of(sample.cell.variant)
        vote = (sample.cell, sample.example_id, sample.aa, trial)
        drawn.setdefault(vote, []).append(place)
    for (cell, *_, trial), places in drawn.items():
        if len(places) == experiment.samples_of(cell.variant):
            yield _together(list(observed.at(places)), read)._replace(replicate=trial)


def _together(samples: Sequence[Observation], read: Read) -> Observation:
    failed = next((sample for sample in samples if sample.outcome.failure), None)
    elected = failed or spokesman({sample.replicate: sample for sample in samples}, read)
    return elected._replace(
        outcome=_at_the_price_of([sample.outcome for sample in samples], elected.outcome),
        proof=weakest([sample.proof for sample in samples]),
        samples=tuple(key for sample in samples for key in sample.keys),
        cut=next((sample.cut for sample in samples if sample.cut), None),
    )


def _at_the_price_of(samples: Sequence[Outcome], outcome: Outcome) -> Outcome:
    return outcome._replace(
        latency_s=_sum([sample.latency_s for sample in samples]),
        prompt_tokens=_sum([sample.prompt_tokens for sample in samples]),
        completion_tokens=_sum([sample.completion_tokens for sample in samples]),
    )


def spokesman(samples: Mapping[int, Sample], read: Callable[[Sample], Ballot]) -> Sample:
    """The sample whose answer is elected by all of a vote.

    Args:
        samples: all of one vote by replicate, none of them a failure.
        read: the ballot of a sample.
    """
    ordered = [samples[replicate] for replicate in sorted(samples)]
    return ordered[elect([read(sample) for sample in ordered])]


Number = TypeVar("Number", int, float)


def _sum(values: Sequence[Number | None]) -> Number | None:
    """None where one is not known: a sum of some would look like that of all."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if len(numbers) == len(values) else None
