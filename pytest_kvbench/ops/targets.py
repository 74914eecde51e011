"""Targets, runs and posteriors of groups, built into the content-addressed store: `target_store`.

A target is what arms are measured on: model, data, prompts, seed and control. A run is one arm
under it with the rules that judge it, judged alone, so that it is the same whatever else its group
asked. A posterior is over all targets of a model, and waits for their runs. Each is a node that
needs nothing but the groups' databases: here, or on Parsl's workers.
"""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_kvbench.ops.run_names import named_runs
from pytest_kvbench.ops.run_nodes import make_posterior_of, make_run, make_target
from pytest_kvbench.ops.target_store import RunStore
from pytest_kvbench.pipeline.group import Prepared

if TYPE_CHECKING:
    from pytest_kvbench.posterior.draws import Sampling

Submit = Callable[..., concurrent.futures.Future[str]]
"""Runs a function with arguments, of which futures are waited for: here or elsewhere."""


@dataclass(frozen=True)
class Built:
    """Ids of runs made, of those that were there, arms that lack answers, and ids of posteriors.

    `damaged`: what was wrong with targets and runs that were made again, by id.
    """

    made: tuple[str, ...]
    known: tuple[str, ...]
    incomplete: tuple[str, ...]
    posteriors: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)


def here(function: Callable[..., str], *args: Any) -> concurrent.futures.Future[str]:
    """`Submit` in this process, at once."""
    done: concurrent.futures.Future[str] = concurrent.futures.Future()
    given = [a.result() if isinstance(a, concurrent.futures.Future) else a for a in args]
    done.set_result(function(*given))
    return done


def build(
    groups: Sequence[Prepared],
    root: Path,
    submit: Submit = here,
    posteriors: Sequence[Sampling] = (),
) -> Built:
    """Build the targets, runs and posteriors of groups that the store lacks whole; asks nobody.

    Args:
        groups: answered and scored; `experiment.gate` are the rules by which runs are judged.
        root: the store's folder, shared by any number of groups.
        submit: where the nodes are worked on.
        posteriors: by each of these samplers, one over all groups of a model and margin.

    Raises:
        MissingPrerequisiteError: an answer has no score, or the extra `bayes` is not installed.
        StoreError: it cannot be written.
    """
    store = RunStore(root)
    targets: dict[str, concurrent.futures.Future[str]] = {}
    runs: dict[str, concurrent.futures.Future[str]] = {}
    known: dict[str, None] = {}
    incomplete: list[str] = []
    damaged = store.damaged()

    def is_there(place: Path) -> bool:
        return place.exists() and place not in damaged

    for prepared in groups:
        gate = _rules(prepared)
        whole, lacking = named_runs(prepared)
        incomplete += lacking
        for run in whole:
            place = (str(prepared.folder.absolute()), gate, run.variant)
            if run.target not in targets and not is_there(store.target(run.target)):
                targets[run.target] = submit(make_target, *place, str(root.absolute()))
            if is_there(store.run(run.target, run.name)):
                known[run.name] = None
            elif run.name not in runs:
                arm = (run.arm.policy, run.arm.budget)
                after = targets.get(run.target, run.target)
                runs[run.name] = submit(make_run, *place, *arm, str(root.absolute()), after)
    built = (*targets.values(), *runs.values())
    fits = [
        submit(make_posterior_of, of, asdict(how), margin, str(root.absolute()), *built)
        for margin, of in _alike(groups)
        for how in posteriors
    ]
    for future in built:
        future.result()
    ids = tuple(future.result() for future in fits)
    store.index()
    again = {at.name: why for at, why in damaged.items() if at.name in {*targets, *runs}}
    return Built(tuple(runs), tuple(known), tuple(incomplete), ids, again)


def _rules(prepared: Prepared) -> str:
    return json.dumps(prepared.experiment.gate.model_dump(mode="json"))


def _alike(groups: Sequence[Prepared]) -> Iterator[tuple[float, list[tuple[str, str]]]]:
    """The margin, folders and rules of groups of one model and margin."""
    found: dict[tuple[str, float], list[tuple[str, str]]] = {}
    for one in groups:
        key = (one.experiment.engine.model, one.experiment.gate.loss)
        found.setdefault(key, []).append((str(one.folder.absolute()), _rules(one)))
    for (_, margin), of in found.items():
        yield margin, of
