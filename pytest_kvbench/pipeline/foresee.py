"""What a plan can decide, said before it asks anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pytest_kvbench import hints
from pytest_kvbench.analyse.layout import MOST, Layout, Prospect, prospects, surely_hold
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import measures, plan
from pytest_kvbench.pipeline.rules import rules_of
from pytest_kvbench.records import SCORE
from pytest_kvbench.selection import TaskManifest


def layouts(
    experiment: Experiment,
    manifests: Mapping[str, TaskManifest] = MappingProxyType({}),
    measure: str | None = None,
) -> dict[str, Layout]:
    """By task with treated cells: what its rows over bins rest on, by default of its first measure.

    Without a manifest, each example that is declared has a context of its own.
    """
    measure = measure or measures.of(experiment)[0]
    treated = (cell for cell in plan.cells(experiment) if not cell.is_control)
    rows = Counter(cell.task for cell in treated if not cell.bin and cell.measure == measure)
    found = {}
    for task, count in rows.items():
        bins = tuple(_contexts(experiment, manifests.get(task)))
        if any(bins):
            found[task] = Layout(tuple(sizes for sizes in bins if sizes), count)
    return found


def _contexts(experiment: Experiment, manifest: TaskManifest | None) -> Iterator[tuple[int, ...]]:
    for index, declared in enumerate(experiment.bins.per_bins):
        if manifest is None:
            yield (1,) * declared
        else:
            entries = manifest.of_bin(index)
            yield tuple(Counter(entry.example.cluster for entry in entries).values())


def foreseen(
    experiment: Experiment,
    manifests: Mapping[str, TaskManifest] = MappingProxyType({}),
    measure: str = SCORE,
) -> dict[str, Prospect]:
    """By task with treated cells: what its rows over bins can become, at their adjusted level."""
    found, rules = layouts(experiment, manifests, measure), rules_of(experiment, measure)
    return dict(zip(found, prospects(list(found.values()), rules), strict=True))


def per_bin(experiment: Experiment, differ: float, power: float) -> int | None:
    """Examples per bin with which an arm without loss mostly holds; None where none would do.

    Args:
        experiment: whose rows over bins share the error.
        differ: the share of answers that differ by chance.
        power: the share of runs in which such an arm is to hold.
    """
    from pytest_kvbench.analyse.power import plan as pairs_for  # late: numpy and scipy

    arms = sum(layout.rows for layout in layouts(experiment).values())
    gate = experiment.gate
    found = pairs_for(
        gate.loss, discordance=differ, power=power, alpha=gate.alpha, cells=max(1, arms)
    )
    return None if found.n is None else -(-found.n // experiment.bins.n)


def shortcomings(
    experiment: Experiment, manifests: Mapping[str, TaskManifest] = MappingProxyType({})
) -> Iterator[str]:
    """A line for each task that can never hold, with the number of examples that could."""
    for measure in measures.of(experiment):
        margin = experiment.gate_of(measure).loss
        if not margin:
            continue  # it takes gains to hold that
        found = layouts(experiment, manifests, measure)
        if surely_hold(list(found.values()), rules_of(experiment, measure)):
            continue
        of = "" if measure == SCORE else f" of {measure}"
        for task, prospect in foreseen(experiment, manifests, measure).items():
            if not prospect.holds:
                yield f"{task}: {_shortcoming(found[task], prospect, margin, of)}"


def _shortcoming(layout: Layout, prospect: Prospect, margin: float, of: str) -> str:
    bins, words = len(layout.bins), "hold" if prospect.breaks else "hold or break"
    enough = (
        f"per_bin: {prospect.needed} is the least that could"
        if prospect.needed
        else f"nor would {MOST:,} in each bin do"
    )
    return (
        f"{hints.count(layout.n, 'example')} in {hints.count(bins, 'bin')} can never "
        f"{words} a margin of "
        f"{margin:g}{of}, not even without a single loss: {enough}"
    )
