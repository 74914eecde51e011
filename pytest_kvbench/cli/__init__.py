"""`kvbench`: the stages without pytest, and what looks across groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_kvbench.cli.stages import main

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    # Late: one command's module need not load them all.
    if name == "main":
        from pytest_kvbench.cli.stages import main

        return main
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
