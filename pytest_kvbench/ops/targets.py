"""Targets and runs of groups, built into the content-addressed store: see `target_store`.

A target is what arms are measured on: model, data, prompts, seed and control. A run is one arm
under it with the rules that judge it, judged alone, so that it is the same whatever else its group
asked. Each is a node that needs nothing but the group's database: here, or on Parsl's workers.
"""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.ops.run_names import named_runs
from pytest_kvbench.ops.run_nodes import make_run, make_target
from pytest_kvbench.ops.target_store import RunStore
from pytest_kvbench.pipeline.group import Prepared

Submit = Callable[..., concurrent.futures.Future[str]]
"""Runs a function with arguments, of which futures are waited for: here or elsewhere."""


@dataclass(frozen=True)
class Built:
    """Ids of folders made, of those that were there, and arms that lack answers."""

    made: tuple[str, ...]
    known: tuple[str, ...]
    incomplete: tuple[str, ...]


def here(function: Callable[..., str], *args: Any) -> concurrent.futures.Future[str]:
    """`Submit` in this process, at once."""
    done: concurrent.futures.Future[str] = concurrent.futures.Future()
    given = [a.result() if isinstance(a, concurrent.futures.Future) else a for a in args]
    done.set_result(function(*given))
    return done


def build(groups: Sequence[Prepared], root: Path, submit: Submit = here) -> Built:
    """Build the targets and runs of groups that the store lacks; asks nobody.

    Args:
        groups: answered and scored; `experiment.gate` are the rules by which runs are judged.
        root: the store's folder, shared by any number of groups.
        submit: where the nodes are worked on.

    Raises:
        MissingPrerequisiteError: an answer has no score.
        StoreError: it cannot be written.
    """
    store = RunStore(root)
    targets: dict[str, concurrent.futures.Future[str]] = {}
    runs: dict[str, concurrent.futures.Future[str]] = {}
    known: dict[str, None] = {}
    incomplete: list[str] = []
    for prepared in groups:
        gate = json.dumps(prepared.experiment.gate.model_dump(mode="json"))
        whole, lacking = named_runs(prepared)
        incomplete += lacking
        for run in whole:
            place = (str(prepared.folder.absolute()), gate, run.variant)
            if store.run(run.target, run.name).exists():
                known[run.name] = None
                continue
            if run.target not in targets:
                targets[run.target] = submit(make_target, *place, str(root.absolute()))
            if run.name not in runs:
                arm = (run.arm.policy, run.arm.budget)
                after = targets[run.target]
                runs[run.name] = submit(make_run, *place, *arm, str(root.absolute()), after)
    for future in [*targets.values(), *runs.values()]:
        future.result()
    store.index()
    return Built(tuple(runs), tuple(known), tuple(incomplete))
