"""What an engine of a user's is: `python -m pytest_kvbench.engines.own.reading CLASS`, as JSON.

A class may say which policies it has: `policies`, a mapping of each name to the fraction of the
full cache's bytes that it always keeps, or to None where it takes the budgets of the experiment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pytest_kvbench.engines.own import Entry
from pytest_kvbench.errors import UsageError
from pytest_kvbench.own.classes import Found
from pytest_kvbench.own.loading import files_of, load, packages_since, told


def read(spec: str) -> Found[Entry]:
    """One class, or object, as plain data; the files and packages that it was made from.

    Raises:
        UsageError: it cannot be imported, or is no engine.
    """
    before = set(sys.modules)
    found = load_engine(spec)
    module = getattr(found, "__module__", type(found).__module__)
    policies = _policies(spec, getattr(found, "policies", None))
    return {
        "entry": {"policies": policies},
        "files": files_of(module, before),
        "versions": packages_since(before),
    }


def load_engine(spec: str) -> Any:
    """The class or object.

    Raises:
        UsageError: it cannot be imported, or has no `generate`.
    """
    found = load(spec, "engine")
    if not callable(getattr(found, "generate", None)):
        raise UsageError(
            f"engine {spec}: it has no method generate.",
            "Valid: a class, or an object, with generate(messages, arm) -> Reply.",
        )
    return found


def _policies(spec: str, given: Any) -> dict[str, float | None] | None:
    """The policies that it names; None where it names none and takes any."""
    if given is None:
        return None
    valid = isinstance(given, Mapping) and all(
        isinstance(name, str) and (kept is None or _is_fraction(kept))
        for name, kept in given.items()
    )
    if not valid:
        raise UsageError(
            f"engine {spec}: policies is {given!r}.",
            "Valid: names, each with the fraction that it always keeps, in (0, 1), or None.",
        )
    return dict(given)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


if __name__ == "__main__":
    sys.exit(told(lambda: read(*sys.argv[1:])))
