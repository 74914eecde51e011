"""`kvbench`: the stages without pytest, and what looks across groups."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_kvbench.cli.stages import main

__all__ = ["main"]

_YOUNG = 50_000
"""Objects between two searches for cycles. At Python's 700 they take a fifth of a short command."""


def __getattr__(name: str) -> Any:
    # Late: one command's module need not load them all.
    if name == "main":
        gc.set_threshold(_YOUNG, 20, 20)
        from pytest_kvbench.cli.stages import main

        return main
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
