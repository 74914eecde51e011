"""What is installed beside us, looked up once: a process does not see it change."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version(package: str) -> str:
    """The version of an installed package.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return importlib.metadata.version(package)


def version_if_any(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
