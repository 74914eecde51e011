"""Policies by name: what an experiment or a request asks for, looked up and checked."""

from __future__ import annotations

from dataclasses import replace

from pytest_kvbench.errors import UsageError
from pytest_kvbench.hints import did_you_mean
from pytest_kvbench.own.classes import is_spec
from pytest_kvbench.policies.builtin import POLICIES
from pytest_kvbench.policies.catalogue import catalogue, policy_of
from pytest_kvbench.policies.notes import Note
from pytest_kvbench.policies.own import CLASSES
from pytest_kvbench.policies.params import Param
from pytest_kvbench.policies.policy import Policy, recipe_of
from pytest_kvbench.records import Params

__all__ = [
    "POLICIES",
    "Param",
    "Policy",
    "catalogue",
    "checked",
    "get_policy",
    "min_tokens",
    "recipe_of",
    "sources",
]


def get_policy(name: str) -> Policy:
    """The policy of that name: one of the table, of kvpress's, or a class `MODULE:Class`.

    Raises:
        UsageError: there is none of that name; the second line names all.
    """
    if name in POLICIES:
        return POLICIES[name]
    if is_spec(spec := CLASSES.spec_of(name)):
        return replace(policy_of(CLASSES.entry(spec), Note()), name=name)
    every = catalogue()
    if name not in every:
        raise UsageError(
            f"unknown policy {name!r}.",
            f"{did_you_mean(name, [*every, *CLASSES.named()])}"
            f"Valid: {', '.join([*every, *CLASSES.named()])}, or a class: ./FILE.py:Class, "
            "MODULE:Class.",
        )
    return every[name]


def checked(name: str, params: Params) -> tuple[Policy, Params]:
    """A policy and all its parameters, those of the policies inside it looked at too.

    Raises:
        UsageError: it, or one inside, is unknown, or a parameter is not valid.
    """
    policy = get_policy(name)
    whole = policy.with_defaults(params)
    if policy.refused:
        raise UsageError(f"policy {name}: it {policy.refused}.", "Valid: another policy.")
    for inside, its in policy.inner(whole):
        inner = checked(inside, its)[0]
        if inner.serving == "quantised" or not inner.press:
            raise UsageError(
                f"policy {name}: {inside} cannot be a part of another policy.",
                "Valid: a policy that is a class of kvpress's or of yours.",
            )
    return policy, whole


def min_tokens(policy: Policy, params: Params) -> int:
    """The fewest prompt tokens that a policy and what it wraps can work on."""
    inner = [min_tokens(*checked(name, its)) for name, its in policy.inner(params)]
    return max([policy.min_tokens(params), *inner])


def sources(name: str, params: Params) -> dict[str, str]:
    """The digests of the users' classes in a policy, by name: what its answers depend on."""
    policy = get_policy(name)
    found = {name: CLASSES.digest(spec)} if is_spec(spec := CLASSES.spec_of(name)) else {}
    for inside, its in policy.inner(policy.with_defaults(params)):
        found |= sources(inside, its)
    return found
