"""What each dial does to the score: every arm against the control, then like for like.

Like for like: the same example with every other dial equal, one task and one recipe a row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_kvbench.analyse.cell import checked, evidence_of
from pytest_kvbench.analyse.evidence import interval
from pytest_kvbench.ops.asked import WORDED, recipe_label
from pytest_kvbench.ops.best import arm_label
from pytest_kvbench.ops.columns import Record
from pytest_kvbench.ops.recipes import ALL_LENGTHS, ARM, RECIPE
from pytest_kvbench.records import FULL_CACHE

if TYPE_CHECKING:
    import pandas as pd

CONTROL = "control"
POLICY = "policy"
DIALS = tuple(dict.fromkeys(["budget", "question_aware", "params", "variant", *RECIPE]))
"""Beside policies: what may differ between two answers to the same example.

Of a variant its wording and sampling are what differs, so that these need not be equal; and of a
template the prompt.
"""

Rung = tuple[float, float]
"""A budget and the share of bytes that was kept."""

SAME_BYTES = 1.25
"""Kept shares whose ratio is at most this are those of the same memory."""

_CONTEXT = [*RECIPE, *ARM]
_ASKED = ["task", "example_id", "cluster", "prompt"]
_LABEL = {"draws": "sampling"}


class Effect(NamedTuple):
    """A mean difference of two scores of the same examples, with its interval, in score units."""

    n: int
    clusters: int
    mean_from: float
    mean_to: float
    effect: float
    ci_low: float
    ci_high: float


COLUMNS = ["dial", "model", "task", "length", "at", "from", "to", *Effect._fields]


def effects(scored: pd.DataFrame, arms: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The difference of every arm from the control, then of every two values of every dial.

    Args:
        scored: as `recipes.with_dials` gives them.
        arms: as `arms.judged_arms` gives them; their intervals are at their groups' alpha.
        alpha: two-sided level of the other intervals.

    Returns:
        `COLUMNS`: n counts pairs; `at` says what else was equal. Budgets go in steps from each to
        the next smaller that some group measured beside it.
    """
    import pandas as pd

    rows = [
        *against_control(arms),
        *_policies(scored, alpha),
        *(row for dial in DIALS if dial != "task" for row in _of_dial(scored, dial, alpha)),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def against_control(arms: pd.DataFrame) -> Iterator[Record]:
    """Each arm that was measured, by length where there are several."""
    once = arms[arms["n"] > 0].drop_duplicates([*RECIPE, "length", *ARM])
    for row in once.to_dict("records"):
        figures = (row["n"], row["clusters"], row["control_mean"], row["treated_mean"])
        yield {
            "dial": CONTROL,
            "model": row["model"],
            "task": row["task"],
            "length": row["length"],
            "at": recipe_label(row, arms),
            "from": FULL_CACHE,
            "to": arm_label(row) + (f" ({row['doubt']})" if row["doubt"] else ""),
            **Effect(*figures, row["delta"], row["ci_low"], row["ci_high"])._asdict(),
        }


# -- policies ------------------------------------------------------------------------------------


def _policies(scored: pd.DataFrame, alpha: float) -> Iterator[Record]:
    """Policies at equal budgets, and where they have none in common at the bytes they keep."""
    treated = scored[scored["policy"] != FULL_CACHE]
    for _, rows in treated.groupby(RECIPE, dropna=False):
        ladders: dict[tuple[str, str], list[Rung]] = {}
        for row in rows.groupby(ARM, dropna=False, as_index=False)["achieved"].mean().to_numpy():
            policy, params, budget, share = row
            rung = (budget, budget if math.isnan(share) else share)
            ladders.setdefault((policy, params), []).append(rung)
        for one, other in itertools.combinations(sorted(ladders), 2):
            for former, later in _matched(ladders[one], ladders[other]):
                sides = [
                    _arm(rows, *named, budget)
                    for named, (budget, _) in ((one, former), (other, later))
                ]
                names = [
                    _at_bytes(named, *rung, equal=former[0] == later[0])
                    for named, rung in ((one, former), (other, later))
                ]
                yield from _row(POLICY, rows, scored, "", names, sides, alpha)


def _matched(one: Sequence[Rung], other: Sequence[Rung]) -> list[tuple[Rung, Rung]]:
    """Rungs to compare: of equal budgets; of policies with one rung, these; else equal bytes."""
    equal = [(a, b) for a in one for b in other if a[0] == b[0]]
    if equal or len(one) == len(other) == 1:
        return equal or [(one[0], other[0])]
    if len(one) > len(other):
        return [(b, a) for a, b in _matched(other, one)]
    near = [(a, min(other, key=lambda b: _apart(a, b))) for a in one]
    return [pair for pair in near if _apart(*pair) <= math.log(SAME_BYTES)]


def _apart(one: Rung, other: Rung) -> float:
    return abs(math.log(one[1] / other[1]))


def _at_bytes(named: tuple[str, str], budget: float, kept: float, *, equal: bool) -> str:
    label = arm_label({"policy": named[0], "params": named[1], "budget": budget})
    return label if equal else f"{label} (keeps {kept:.2f})"


def _arm(rows: pd.DataFrame, policy: str, params: str, budget: float) -> pd.DataFrame:
    return rows[
        (rows["policy"] == policy) & (rows["params"] == params) & (rows["budget"] == budget)
    ]


# -- other dials ---------------------------------------------------------------------------------


def _of_dial(scored: pd.DataFrame, dial: str, alpha: float) -> Iterator[Record]:
    if scored[dial].nunique() < 2:
        return
    differs = {dial, *(WORDED if dial == "variant" else ())}
    beside = ["group"] if dial == "variant" else []
    same = [*(name for name in _CONTEXT if name not in differs), *beside]
    for _, rows in scored.groupby(same, dropna=False):
        values = list(dict.fromkeys(rows[dial]))
        if len(values) < 2:
            continue
        for former, later in _steps(rows, dial, values):
            sides = [rows[rows[dial] == value] for value in (former, later)]
            at = _where(rows.iloc[0], dial)
            yield from _row(dial, rows, scored, at, [former, later], sides, alpha)


def _steps(rows: pd.DataFrame, dial: str, values: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """The pairs of values to compare: of budgets those next to each other in some group."""
    if dial != "budget":
        return itertools.combinations(sorted(values, key=str), 2)
    ladders = rows.groupby("group")["budget"].unique()
    steps = {step for one in ladders for step in itertools.pairwise(sorted(one, reverse=True))}
    return sorted(steps, reverse=True)


def _where(row: pd.Series[Any], dial: str) -> str:
    """The arm at which a dial was turned."""
    if row["policy"] == FULL_CACHE:
        return CONTROL
    return str(row["policy"]) if dial == "budget" else arm_label(row)


def _row(
    dial: str,
    rows: pd.DataFrame,
    every: pd.DataFrame,
    at: str,
    names: Sequence[Any],
    sides: Sequence[pd.DataFrame],
    alpha: float,
) -> Iterator[Record]:
    """The row of two sides, if they have examples in common."""
    asked = _ASKED[:-1] if dial in ("template", "variant") else _ASKED
    former, later = (side.groupby(asked)["score"].mean() for side in sides)
    both = former.to_frame("from").join(later.rename("to"), how="inner")
    if both.empty:
        return
    first = rows.iloc[0].to_dict()
    at = ", ".join(filter(None, [at, recipe_label(first, every, dial)]))
    yield {
        "dial": _LABEL.get(dial, dial),
        "model": "" if dial == "model" else first["model"],
        "task": first["task"],
        "length": ALL_LENGTHS,
        "at": at,
        "from": names[0],
        "to": names[1],
        **difference(
            both["from"].to_numpy(),
            both["to"].to_numpy(),
            both.index.get_level_values("cluster").to_numpy(),
            alpha,
        )._asdict(),
    }


def difference(former: np.ndarray, later: np.ndarray, clusters: np.ndarray, alpha: float) -> Effect:
    """The mean of later - former with its interval, clusters kept together; shape (n,) each."""
    pairs = checked(
        np.clip(former.round(12), 0, 1), np.clip(later.round(12), 0, 1), clusters.astype(str)
    )
    evidence = evidence_of(*pairs)
    low, high = interval(evidence, alpha)
    return Effect(
        n=len(former),
        clusters=int(pairs[2].max()) + 1,
        mean_from=float(former.mean()),
        mean_to=float(later.mean()),
        effect=evidence.estimate,
        ci_low=low,
        ci_high=high,
    )
