"""The formats of figures for a paper; light, for options are read before anything is drawn."""

from __future__ import annotations

from pytest_kvbench.errors import UsageError

FORMATS = ("pdf", "svg", "png")


def formats_of(given: str, option: str) -> tuple[str, ...]:
    """The formats that an option lists, joined by commas, each once.

    Raises:
        UsageError: one is none of `FORMATS`.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"{option}: {name!r} is no format", f"valid: {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))
