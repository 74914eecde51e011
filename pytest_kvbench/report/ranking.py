"""Many policies beside each other: which is best, and what drawing tokens at random would do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_kvbench import hints
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Table, Value
from pytest_kvbench.report.brackets import bracket, ends
from pytest_kvbench.report.costs import average
from pytest_kvbench.report.results import Results, doubt, final
from pytest_kvbench.report.series import Series
from pytest_kvbench.report.text import name
from pytest_kvbench.rows import CellRow

MANY = 8
"""More policies than this are ranked: neither a list of sentences nor a panel each is read."""
DOUBTED = "*"
"""Beside the sign of a verdict on a cache that nothing proves to be smaller."""
RANDOM = "random"
"""The policy that any other must beat."""
_AT_ALL, _AT_SOME, _AT_NONE = "at every budget", "at some budgets", "at no budget"


def is_wanted(results: Results) -> bool:
    """Whether there are so many policies that they are ranked."""
    return len(results.policies) > MANY


def ranked(results: Results, of: Sequence[Series] = ()) -> list[str]:
    """The policies, best first: by the mean change of their headline cells.

    Args:
        results: of which.
        of: the series that count; by default all.
    """
    cells = [c for series in of or results.series for c in results.headline_cells(series)]
    means = {p: average(c["delta"] for c in cells if c["policy"] == p) for p in results.policies}
    known = {policy: -math.inf if mean is None else mean for policy, mean in means.items()}
    return sorted(known, key=lambda policy: -known[policy])


def in_order(results: Results, of: Sequence[Series] = ()) -> Sequence[str]:
    """The policies as they are shown: many best first, few as the experiment lists them."""
    return ranked(results, of) if is_wanted(results) else results.policies


def table(results: Results, series: Series) -> Table:
    """One row a policy, best first: the change at each budget with its verdict."""
    budgets = results.budgets(results.headline_cells(series))
    columns = ("Policy", "Mean delta", *map(text.budget, budgets), "Quality is lost")
    rows = [_row(results, series, p, budgets) for p in ranked(results, [series])]
    numeric = frozenset(range(1, len(budgets) + 2))
    of = f": {series.label}" if len(results.series) > 1 else ""
    return Table(f"Policies, best first{of}", columns, tuple(rows), numeric)


def legend(results: Results) -> str:
    """How to read the table."""
    doubted = {DOUBTED: "unverified or simulated"} if any(map(doubt, results.treated())) else {}
    signs = {**{sign: word for word, sign in text.SYMBOLS.items()}, **doubted}
    return (
        "A policy's place is by the mean of its deltas (described, not tested). At each budget: "
        f"delta, and the adjusted verdict ({', '.join(map(' '.join, signs.items()))})."
    )


def _row(
    results: Results, series: Series, policy: str, budgets: Sequence[float]
) -> tuple[Value, ...]:
    ladder = {c["budget"]: c for c in results.of_policy(series, results.headline(series), policy)}
    mean = average(c["delta"] for c in ladder.values())
    lost = bracket(*ends(results.transition(series, results.headline(series), policy)))
    cells = (_cell(ladder.get(b)) for b in budgets)
    return (Value(name(policy)), Value(text.signed(mean), mean), *cells, Value(lost))


def _cell(cell: CellRow | None) -> Value:
    if cell is None:
        return Value("")
    verdict = final(cell)
    mark = text.SYMBOLS[verdict] + DOUBTED * bool(doubt(cell))
    shown = f"{text.signed(cell['delta'])} {mark}"
    return Value(shown, cell["delta"], tone=verdict)


def against_random(results: Results, series: Series) -> str:
    """Which policies score above `random` at the same budgets; nothing where it was not asked."""
    others = [p for p in ranked(results, [series]) if p != RANDOM]
    if RANDOM not in results.policies or not others:
        return ""
    found: dict[str, list[str]] = {_AT_ALL: [], _AT_SOME: [], _AT_NONE: []}
    for policy in others:
        if (how := _above_random(results, series, policy)) is not None:
            found[how].append(name(policy))
    parts = [
        f"{len(some)} {how} ({text.listing(some, limit=len(some))})"
        for how, some in found.items()
        if some
    ]
    if not parts:
        return ""
    of = hints.count(sum(map(len, found.values())), "other policy")
    return f"Of {of}, these score above {name(RANDOM)} (described, not tested): {'; '.join(parts)}."


def _above_random(results: Results, series: Series, policy: str) -> str | None:
    """At how many of the budgets that both were asked at; None where there are none."""
    key = results.headline(series)
    level = {c["budget"]: c["treated_mean"] for c in results.of_policy(series, key, RANDOM)}
    pairs = [
        (c["treated_mean"], level.get(c["budget"])) for c in results.of_policy(series, key, policy)
    ]
    above = [own > drawn for own, drawn in pairs if own is not None and drawn is not None]
    if not above:
        return None
    return _AT_ALL if all(above) else _AT_SOME if any(above) else _AT_NONE
