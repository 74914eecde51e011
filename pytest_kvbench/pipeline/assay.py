"""The arm that is known to be bad: asked beside a plan, so that one sees that a loss can be seen.

A plan may list it too; then it is a cell like any other as well. Else it is beside the plan: it has
no item, is judged in no family, and is in no table of arms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from pytest_kvbench.analyse.rules import BadArm
from pytest_kvbench.engines import arms
from pytest_kvbench.engines.kinds import arms_per_request, kind_of
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.gate import Sensitivity
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import FULL_CACHE, SCORE, WITHHELD, Cell, Example
from pytest_kvbench.tasks.registry import BUILT_IN, get_task

RANDOM = Sensitivity(policy="random", budget=0.1)
CONTEXT_WITHHELD = Sensitivity(policy=WITHHELD)


def declared(experiment: Experiment, task: str, measure: str = SCORE) -> Sensitivity | None:
    """What is known to be bad on a task, where `auto` stands the default.

    Where something is certified, every task has one: of distributions a policy that is asked along.
    """
    given, certifies = experiment.sensitivity, experiment.gate.mode == "certify"
    if not isinstance(given, str):
        return given
    asked_along = _is_generated(task) or (certifies and measure != SCORE)
    if arms_per_request(experiment.engine) > 1 and asked_along:
        return RANDOM
    return CONTEXT_WITHHELD if certifies else None


@cache
def _is_generated(task: str) -> bool:
    return task in BUILT_IN and get_task(task).generated


def arm(experiment: Experiment, task: str, measure: str = SCORE) -> tuple[str, float] | None:
    """Policy and budget of the bad arm of a task; None where there is none, or nothing to judge.

    Without its context an example is another prompt: its distributions are compared with nothing.
    """
    bad = declared(experiment, task, measure)
    if bad is None or set(experiment.kv.policies) == {FULL_CACHE}:
        return None
    if bad.policy == WITHHELD and measure != SCORE:
        return None
    policy, budget = bad.arm
    fixed = arms.fixed_budget(experiment.engine, experiment.served_kv, policy)
    return policy, budget if fixed is None else fixed


def cell_beside(experiment: Experiment, cell: Cell) -> Cell | None:
    """The bad cell that is asked with another one."""
    found = arm(experiment, cell.task, cell.measure)
    return None if found is None else replace(cell, policy=found[0], budget=found[1])


def bad_arms(
    experiment: Experiment, planned: Iterable[Cell], measure: str = SCORE
) -> tuple[BadArm, ...]:
    """The bad arm of every task, and whether the plan has it too."""
    listed = {(cell.task, cell.policy, cell.budget) for cell in planned}
    found = ((task, arm(experiment, task, measure)) for task in experiment.tasks)
    return tuple(BadArm(task, *bad, is_listed=(task, *bad) in listed) for task, bad in found if bad)


def shown(example: Example, policy: str) -> Example:
    """An example as it is put under a policy."""
    return replace(example, context="") if policy == WITHHELD else example


def check(experiment: Experiment) -> None:
    """Refuse a bad arm that the engine does not have.

    Raises:
        UsageError: with what is valid.
    """
    bad = experiment.sensitivity
    if not isinstance(bad, Sensitivity) or bad.policy == WITHHELD:
        return
    engine, kv = experiment.engine, experiment.served_kv
    if bad.policy == FULL_CACHE:
        raise UsageError("the full cache is not known to be bad", f"valid: {WITHHELD}")
    arms.check_policy(engine, kv, bad.policy)
    if kind_of(engine).one_server or arms.fixed_budget(engine, kv, bad.policy) is not None:
        return
    if bad.policy not in experiment.kv.policies or bad.budget not in experiment.kv.budgets:
        raise UsageError(
            f"no server is named for {bad.policy!r} at a budget of {bad.budget:g}",
            f"valid: {WITHHELD}, a policy with a budget of its own, or an arm of `kv`",
        )
