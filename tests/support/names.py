"""The tasks of this package by name."""

from __future__ import annotations

from importlib import import_module

from pytest_kvbench.tasks.registry import BUILT_IN, FAMILIES


def task_names() -> list[str]:
    """Those built in, and what each family has where nothing is set."""
    modules = (import_module(f"pytest_kvbench.tasks.{family}") for family in FAMILIES)
    return [*BUILT_IN, *(name for module in modules for name in module.names({}))]
