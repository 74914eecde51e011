"""Packages that only some tasks need: what to install is said before anything is asked."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from pytest_kvbench.errors import MissingPrerequisiteError

EMBEDDED = ("torch", "transformers", "kvpress")
"""What the embedded server needs; `local` brings them."""


CONVERTING = (*EMBEDDED, "gguf")
"""What makes a model's folder of a .gguf file."""


def lacking(packages: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [package for package in packages if find_spec(package) is None]


def need(packages: Iterable[str], by: str, extra: str = "benchmarks") -> None:
    """Refuse to go on without packages.

    Args:
        packages: as they are imported.
        by: what needs them.
        extra: of ours, that brings them.

    Raises:
        MissingPrerequisiteError: with the one command that brings what is missing.
    """
    if missing := lacking(packages):
        raise MissingPrerequisiteError(
            f"{by} needs {' and '.join(missing)}, not installed here",
            f"install: pip install 'pytest-kvbench[{extra}]'",
        )
