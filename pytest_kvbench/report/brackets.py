"""Where along a ladder of budgets quality is lost, in a few words."""

from __future__ import annotations

from pytest_kvbench.report import text
from pytest_kvbench.rows import CellRow, TransitionRow


def ends(row: TransitionRow | None) -> tuple[float | None, float | None]:
    """(b_safe, b_broken) of a ladder by the verdicts that count, the corrected ones."""
    return (row["b_safe_adjusted"], row["b_broken_adjusted"]) if row else (None, None)


def ends_alone(row: TransitionRow | None) -> tuple[float | None, float | None]:
    """(b_safe, b_broken) of a ladder tested on its own, before the correction."""
    return (row["b_safe"], row["b_broken"]) if row else (None, None)


def bracket(safe: float | None, broken: float | None) -> str:
    """Where quality is lost, as briefly as can be said: `(0.20, 0.50]`, `below 0.20`."""
    if safe is not None and broken is not None:
        return f"({text.budget(broken)}, {text.budget(safe)}]"
    if safe is not None:
        return f"below {text.budget(safe)}"
    return "not found" if broken is None else f"above {text.budget(broken)}"


def together(cell: CellRow) -> CellRow:
    """The row with the interval that holds for all headline rows together, where it has one."""
    wide = next(iter(cell.get("together") or ()), None)
    return {**cell, "ci_low": wide["ci_low"], "ci_high": wide["ci_high"]} if wide else cell
