"""Self-consistency: k samples of an example make one answer, as `score.vote` elects it.

Samples are repetitions like any other, asked, stored and scored one by one: repetition r is sample
`r % k` of trial `r // k`, so that other groups can use them as plain trials. What is judged are the
votes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import TaskManifest, weakest
from pytest_kvbench.score.vote import Ballot, ballot, elect

Row = Mapping[str, Any]

_COSTS = ("latency_s", "prompt_tokens", "completion_tokens")
"""What k samples cost together."""


def votes(
    rows: Sequence[Row], experiment: Experiment, manifests: Mapping[str, TaskManifest]
) -> Sequence[Row]:
    """One row per vote that has all its samples, in the order of the first ones.

    It is the elected sample's, with the trial in place of the repetition, what all samples cost
    together, the weakest of their proofs and, as `keys`, the requests it was made of. A vote of
    which a sample failed has failed: an answer of fewer samples would be another dial's.

    Args:
        rows: as `stages.observations` gives them; where nobody votes they are returned.
        experiment: says how many samples each variant draws.
        manifests: the examples, by which ballots are read.
    """
    if not experiment.votes:
        return rows
    metas = {
        (task, entry.example.example_id): entry.example.meta
        for task, manifest in manifests.items()
        for entry in manifest.entries
    }

    def read(row: Row) -> Ballot:
        task = row["task"]
        return ballot(manifests[task].metric, row["text"], metas[task, row["example_id"]])

    return list(_votes(rows, experiment, read))


def _votes(
    rows: Sequence[Row], experiment: Experiment, read: Callable[[Row], Ballot]
) -> Iterator[Row]:
    drawn: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        trial = row["replicate"] // experiment.samples_of(row["variant"])
        drawn.setdefault((*_asked(row), trial), []).append(row)
    for (*_, trial), samples in drawn.items():
        if len(samples) == experiment.samples_of(samples[0]["variant"]):
            yield {**_together(samples, read), "replicate": trial}


def _asked(row: Row) -> tuple[Any, ...]:
    names = ("task", "bin", "variant", "policy", "budget", "example_id", "aa")
    return tuple(row[name] for name in names)


def _together(samples: Sequence[Row], read: Callable[[Row], Ballot]) -> Row:
    spoken = spokesman(samples, read)
    failed = next((row for row in samples if row["failure"]), None)
    return {
        **(spoken or failed or samples[0]),
        **{name: _sum([row[name] for row in samples]) for name in _COSTS},
        "proof": weakest([row["proof"] for row in samples]),
        "keys": tuple(row["key"] for row in samples),
    }


def spokesman(samples: Sequence[Row], read: Callable[[Row], Ballot]) -> Row | None:
    """The sample that speaks for all; None where one of them failed.

    Args:
        samples: all of one vote, with `replicate`, `failure` and what `read` needs.
        read: the ballot of a sample.
    """
    if any(row["failure"] for row in samples):
        return None
    ordered = sorted(samples, key=lambda row: int(row["replicate"]))
    return ordered[elect([read(row) for row in ordered])]


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one is not known: a sum of some would look like that of all."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
