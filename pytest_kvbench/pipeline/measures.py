"""What is judged of an experiment's arms, and how they are asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pytest_kvbench.engines.kinds import KINDS, kind_of
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import SCORE, Method

METHODS: Mapping[str, Method] = MappingProxyType(
    {SCORE: "", "overlap": "forced", "same_top": "forced", "prefix": "free"}
)
"""How an arm is asked, by what is judged of it."""


ROUNDING = 1e-6
"""What single precision may lose of an overlap."""


def of_distributions(experiment: Experiment) -> str:
    """By what distributions are judged: what is declared, or the first that the engine gives.

    "" where none are compared.
    """
    if not experiment.diverges:
        return ""
    gate = experiment.gate.divergence
    declared = gate.measure if gate else None
    return declared or next(iter(kind_of(experiment.engine).measures), "")


def of(experiment: Experiment) -> tuple[str, ...]:
    """What is judged of each cell, each in a family of its own: scores first."""
    return tuple(filter(None, [SCORE if experiment.scores else "", of_distributions(experiment)]))


def room_of(experiment: Experiment, measure: str) -> float:
    """How far a treated value can be above its control's, where the engine tells beforehand.

    A full cache that says the same twice has nothing above it: a floor of 1.
    """
    floored = measure != SCORE and kind_of(experiment.engine).repeats
    return ROUNDING if floored else 1.0


def check(declared: Declared) -> None:
    """Refuse distributions of an engine that gives none, or a measure that it does not give.

    Raises:
        ExperimentError: with what is valid.
    """
    experiment, name = declared.experiment, declared.experiment.engine.name
    given, gate = kind_of(experiment.engine).measures, experiment.gate.divergence
    if experiment.diverges and not given:
        declared.refuse(
            "measure",
            f"engine.name: {name} compares no distributions",
            f"valid: score; divergence needs engine.name: {', '.join(_comparing())}",
        )
    if experiment.diverges and not kind_of(experiment.engine).one_server:
        _check_served(declared)
    if gate is not None and gate.measure not in (None, *given):
        declared.refuse(
            "gate.divergence.measure",
            f"engine.name: {name} does not say {gate.measure}",
            f"valid: {', '.join(given)}",
        )


def _comparing() -> list[str]:
    return [name for name, kind in KINDS.items() if kind.measures]


def _check_served(declared: Declared) -> None:
    """Arms on servers of their own are compared through the full cache's stored reply."""
    experiment = declared.experiment
    if experiment.engine.mode == "batch":
        declared.refuse(
            "engine.mode",
            "an arm is compared with the full cache's reply, which no batch has yet",
            "valid with measure: divergence: live; batch needs engine.name: local",
        )
    if experiment.keeps_no_texts:
        declared.refuse(
            "store.texts",
            "an arm on a server of its own is compared with the tokens of the full cache's reply",
            "valid: keep; hash needs engine.name: local",
        )
