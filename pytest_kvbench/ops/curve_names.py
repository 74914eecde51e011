"""What curves call a policy: one name for one recipe, by the rule that `recipes` has for tables.

A name always says parameters, a question that was not seen, votes and a variant; what else may
move a loss it says where a task was asked in several ways. Groups that ask alike share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import Arm


@dataclass(frozen=True, order=True)
class Recipe:
    """How the arms of a task were asked, but for budget and seed; `policy` with its settings."""

    task: str
    policy: str
    engine: str
    dtype: str
    temperature: float
    top_p: float
    max_tokens: str
    template: str
    variant: str = ""


_SOMETIMES = ("engine", "dtype", "temperature", "top_p", "max_tokens")


def recipe_of(task: str, arm: Arm, experiment: Experiment) -> Recipe:
    """The recipe of an arm of a group."""
    drawn = arm.sampling
    return Recipe(
        task,
        " ".join([arm.policy, *_settings(arm, experiment.sampling.self_consistency)]),
        arm.engine,
        str(experiment.engine.dtype),
        drawn.temperature,
        drawn.top_p,
        str(drawn.max_tokens),
        arm.template_version,
        arm.variant,
    )


def _settings(arm: Arm, votes: int) -> Iterator[str]:
    yield from (f"{name}={value}" for name, value in sorted(arm.params.items()))
    if not arm.question_aware:
        yield "question-unseen"
    if votes > 1:
        yield f"votes={votes}"


def names(recipes: Iterable[Recipe]) -> dict[Recipe, str]:
    """Each recipe's name: within a task the same where nothing but a variant's name differs."""
    found: dict[Recipe, str] = {}
    for _, own in groupby(sorted(set(recipes)), key=lambda recipe: recipe.task):
        found |= _of_task(list(own))
    return found


def _of_task(recipes: list[Recipe]) -> dict[Recipe, str]:
    several = [name for name in _SOMETIMES if len({getattr(r, name) for r in recipes}) > 1]
    variants = _variants(recipes)
    short = {recipe: _short(recipe, variants, several) for recipe in recipes}
    templates: dict[str, set[str]] = {}
    for recipe, name in short.items():
        templates.setdefault(name, set()).add(recipe.template)
    return {
        recipe: name if len(templates[name]) == 1 else f"{name} template={recipe.template}"
        for recipe, name in short.items()
    }


def _variants(recipes: Iterable[Recipe]) -> dict[Recipe, str]:
    """By what is asked, all names that it has."""
    found: dict[Recipe, set[str]] = {}
    for recipe in recipes:
        found.setdefault(replace(recipe, variant=""), set()).update(filter(None, [recipe.variant]))
    return {recipe: ",".join(sorted(every)) for recipe, every in found.items()}


def _short(recipe: Recipe, variants: Mapping[Recipe, str], several: Iterable[str]) -> str:
    variant = variants[replace(recipe, variant="")]
    parts = [f"variant={variant}"] if variant else []
    parts += [f"{name}={getattr(recipe, name)}" for name in several]
    return " ".join([recipe.policy, *parts])
