"""What names a run and its target: all that decides them, and nothing else."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from pytest_kvbench.ops.run_rows import DataConfig, RunConfig, TargetConfig
from pytest_kvbench.ops.target_store import run_id, target_id
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.stored_plan import stored_plan, unanswered
from pytest_kvbench.records import FULL_CACHE, SCORE, Arm, Request, digest
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.store.store import Store

_UNJUDGED = ("mode", "undetermined")
"""Keys of `gate` that say what becomes of a verdict, not what it is."""

CONTROL = (FULL_CACHE, 1.0)


@dataclass(frozen=True)
class NamedRun:
    """One arm of a group's variant, as far as its name needs it."""

    prepared: Prepared
    variant: str
    arm: Arm
    control: Arm

    @property
    def target_config(self) -> TargetConfig:
        """All that decides what the arm is measured on. No name of a group, no place of a file."""
        experiment = self.prepared.experiment
        sampling = experiment.sampling.model_dump(mode="json")
        way = experiment.ways[self.variant].model_dump(mode="json")
        return {
            "model": {
                "engine": self.control.engine,
                "model": self.control.model,
                "dtype": experiment.engine.dtype,
                "fingerprint": self.control.fingerprint,
            },
            "data": {name: data_of(m) for name, m in sorted(self.prepared.manifests.items())},
            "prompts": {"before": way["before"], "after": way["after"]},
            "sampling": {
                **sampling,
                "temperature": self.control.sampling.temperature,
                "top_p": self.control.sampling.top_p,
            },
            "control": {"policy": FULL_CACHE, "aa": experiment.aa},
        }

    @property
    def config(self) -> RunConfig:
        """All that decides the run: its target, the arm, and the rules that judge it."""
        gate = self.prepared.experiment.gate.model_dump(mode="json", exclude=set(_UNJUDGED))
        return {
            "target": self.target,
            "policy": self.arm.policy,
            "budget": self.arm.budget,
            "params": dict(self.arm.params),
            "question_aware": self.arm.question_aware,
            "fingerprint": self.arm.fingerprint,
            "rules": gate,
        }

    @functools.cached_property
    def target(self) -> str:
        """The target's id."""
        return target_id(self.target_config)

    @functools.cached_property
    def name(self) -> str:
        """The run's id."""
        return run_id(self.arm.policy, self.config)


def data_of(manifest: TaskManifest) -> DataConfig:
    """What a task's examples are, by content."""
    entries = [
        [e.example.example_id, e.bin, e.prompt, e.max_tokens, e.tokens] for e in manifest.entries
    ]
    return {
        "metric": manifest.metric,
        "template": manifest.template_version,
        "tokenizer": manifest.tokenizer,
        "bins": [[b.index, b.low, b.high] for b in manifest.bins],
        "examples": len(entries),
        "entries": digest(entries),
    }


def named_runs(prepared: Prepared) -> tuple[list[NamedRun], list[str]]:
    """The arms of the plan whose answers and whose control's are all there; names of the others.

    Raises:
        MissingPrerequisiteError: nothing was answered.
    """
    with Store(prepared.database, reads=True) as store:
        planned = stored_plan(prepared, store)
        settled = store.settled([request.key for _, request in planned])
    if not settled:
        raise unanswered(prepared)
    asked: dict[tuple[str, str, float], list[Request]] = {}
    for cell, request in planned:
        if cell.measure != SCORE:  # a target is one of scores
            continue
        asked.setdefault((cell.variant, cell.policy, cell.budget), []).append(request)
    whole = {key for key, some in asked.items() if all(r.key in settled for r in some)}
    found, lacking = [], []
    for key, some in asked.items():
        variant, policy, budget = key
        if (policy, budget) == CONTROL or _is_beside(prepared, key):
            continue
        if key in whole and (variant, *CONTROL) in whole:
            control = asked[variant, *CONTROL][0].arm
            found.append(NamedRun(prepared, variant, some[0].arm, control))
        else:
            lacking.append(f"{policy} {budget:g}")
    return found, lacking


def _is_beside(prepared: Prepared, key: tuple[str, str, float]) -> bool:
    return not any((c.variant, c.policy, c.budget) == key for c in prepared.cells)
