"""What an experiment needs so that it could certify anything: refused before it asks, else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import assay, foresee, measures, plan
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.tasks.registry import TaskFactory

DIFFER, PASSES = 0.1, 0.9
"""Where it is said how many examples would do: the share of answers that differ by chance, and of
runs in which an arm without loss then passes."""


class Obstacle(NamedTuple):
    """Why nothing could be certified: the key that is wrong, what is wrong and what to do."""

    key: str
    what: str
    hint: str


def check(declared: Declared, extra: Mapping[str, TaskFactory] = MappingProxyType({})) -> None:
    """Refuse what `plan.check` does, and under `gate.mode: certify` what could certify nothing.

    Args:
        declared: what to check.
        extra: tasks of a conftest, by name.

    Raises:
        ExperimentError: naming the file, the key, the value and what is valid.
    """
    plan.check(declared, extra)
    for key, what, hint in obstacles(declared.experiment):
        declared.refuse(key, what, hint)


def check_data(experiment: Experiment, manifests: Mapping[str, TaskManifest]) -> None:
    """As `check`, with the examples that there are; where nothing is certified, it only warns.

    Raises:
        ExperimentError: of an experiment that could certify nothing.
    """
    lines = list(foresee.shortcomings(experiment, manifests))
    if lines and experiment.gate.mode == "certify":
        raise ExperimentError(f"group {experiment.group}: {lines[0]}", _enough(experiment))
    for line in lines:
        warnings.warn(f"group {experiment.group}: {line}", stacklevel=3)


def obstacles(experiment: Experiment) -> Iterator[Obstacle]:
    """Why an experiment could certify nothing, whatever it found."""
    if experiment.gate.mode != "certify":
        return
    mode = "gate.mode: certify"
    if not plan.treated_cells(experiment):
        yield Obstacle("kv", f"{mode} needs an arm beside the full cache", "add a policy")
        return
    if not experiment.aa:
        yield Obstacle("aa", f"{mode} needs the control asked twice", "valid: true, or left away")
    if experiment.sensitivity is None:
        bad = "{policy: withheld}, or left away"
        yield Obstacle("sensitivity", f"{mode} needs an arm that must break", f"valid: {bad}")
    yield from _unseen(experiment)
    kind = kind_of(experiment.engine)
    if not kind.one_server and kind.size is None:
        yield Obstacle(
            "engine.name",
            f"{experiment.engine.name} proves nothing of what it kept, so that {mode} never passes",
            "valid: local, llamacpp, vllm or sglang; or gate.mode: gate",
        )
    for line in foresee.shortcomings(experiment):
        yield Obstacle("bins.per_bin", line, _enough(experiment))


def _unseen(experiment: Experiment) -> Iterator[Obstacle]:
    """Distributions that nothing known to be bad is asked of."""
    measure = measures.of_distributions(experiment)
    tasks = experiment.tasks if measure and experiment.sensitivity is not None else ()
    if any(assay.arm(experiment, task, measure) is None for task in tasks):
        yield Obstacle(
            "sensitivity",
            f"gate.mode: certify needs an arm that must break in {measure}, and what is asked "
            "without its context is another prompt",
            "valid: an arm of the engine, as in {policy: random, budget: 0.1} or {policy: q4_0}",
        )


def _enough(experiment: Experiment) -> str:
    """How many examples let an arm without loss pass most of the time."""
    found = foresee.per_bin(experiment, DIFFER, PASSES)
    if found is None:
        return "choose a larger gate.margin or fewer arms"
    return (
        f"per_bin: {found} passes an arm without loss in {PASSES:.0%} of runs where "
        f"{DIFFER:.0%} of the answers differ (kvbench power)"
    )
