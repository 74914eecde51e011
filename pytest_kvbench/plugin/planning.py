"""What `--kvbench-plan` prints: cells, requests, tokens and time. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from pytest_kvbench import hints
from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import foresee, plan
from pytest_kvbench.pipeline.group import group_folder, open_group
from pytest_kvbench.plugin.declaration import declaration_of
from pytest_kvbench.plugin.options import Options
from pytest_kvbench.records import Cell
from pytest_kvbench.store.store import DATABASE, Store

FIRST_GUESS_S = 1 / 500
"""Seconds per prompt token before anything was measured: the 135M model on two CPU cores, one
prefill per example. Replaced by the group's own figure after its first run."""


def plan_lines(items: Sequence[pytest.Item], options: Options) -> Iterator[str]:
    """A table per experiment of the selected items."""
    selected: dict[str, tuple[Experiment, dict[Cell, None]]] = {}
    for item in items:
        declaration = declaration_of(item)
        if declaration is not None:
            experiment = declaration.declared.experiment
            _, cells = selected.setdefault(experiment.group, (experiment, {}))
            cells.update(dict.fromkeys(declaration.cells))
    if not selected:
        yield "kvbench: no kvbench items are selected"
    for experiment, cells in selected.values():
        yield from experiment_lines(experiment, list(cells), options)


def experiment_lines(
    experiment: Experiment, cells: Sequence[Cell], options: Options
) -> Iterator[str]:
    """The plan of one experiment."""
    folder = group_folder(experiment, options.reports)
    manifests, stored, seconds = {}, 0, None
    try:
        prepared = open_group(folder, options.tasks)
        manifests = dict(prepared.manifests)
        with Store(folder / DATABASE, reads=True) as store:
            stored = len(store.answered([r.key for _, r in prepared.requests(cells)]))
            seconds = store.seconds_per_token()
    except MissingPrerequisiteError:
        pass  # nothing prepared yet: the declared lengths serve
    costs = plan.costs(experiment, cells, manifests)
    yield f"kvbench plan of {experiment.group}: {experiment.engine.model}"
    yield f"  {'task':24} {'bin':>3} {'cells':>5} {'requests':>8} {'prompt tokens':>13}"
    for cost in costs:
        group = cost.group
        yield (
            f"  {group.task:24} {group.bin:>3} {cost.cells:>5} {cost.requests:>8} "
            f"{cost.prompt_tokens:>13,}"
        )
    requests = sum(cost.requests for cost in costs)
    prefilled = sum(cost.prefill_tokens for cost in costs)
    yield (
        f"  {hints.count(len(cells), 'cell')}, {hints.count(requests, 'request')} ({stored} "
        f"stored), "
        f"{sum(c.prompt_tokens for c in costs):,} prompt tokens, "
        f"{prefilled:,} of them computed (a sweep shares its prefill)"
    )
    left = (1 - stored / requests) if requests else 0
    basis = "as measured in this group" if seconds else "a first guess: 500 tokens/s on two cores"
    yield f"  about {_time(left * prefilled * (seconds or FIRST_GUESS_S))} ({basis})"
    yield from (f"  {line}" for line in foresee.shortcomings(experiment, manifests))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
