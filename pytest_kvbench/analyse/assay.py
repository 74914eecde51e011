"""Arms that are known to be bad: judged alone, beside the analysis of all others.

Where such an arm does not break, nothing was lost that could be seen, and a `holds` means little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pytest_kvbench.analyse.efficiency import efficiency
from pytest_kvbench.analyse.facts import Requests, facts_of
from pytest_kvbench.analyse.integrity import outcomes, where
from pytest_kvbench.analyse.observations import Sick, analyse_observations, judged_cells
from pytest_kvbench.analyse.pairs import checked_observations, pair
from pytest_kvbench.analyse.rules import Analysis, BadArm, Rules
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.rows import CellRow, Integrity


def analyse_with_bad_arms(observations: pd.DataFrame, rules: Rules, sick: Sick) -> Analysis:
    """The whole analysis; see `pytest_kvbench.analyse.analyse`."""
    if not rules.bad_arms:
        return analyse_observations(observations, rules, sick)
    beside = [arm for arm in rules.bad_arms if not arm.is_listed]
    is_beside = of_arms(observations, beside)
    done = analyse_observations(observations[~is_beside], rules, sick)
    rows = sensitivity(observations, rules, sick)
    whole = outcomes(observations)
    counts: Integrity = {
        **done.integrity,
        "requests": whole["requests"],
        "answers": whole["answers"],
        "failures": whole["failures"],
        "labels": whole["labels"],
        "notes": [*done.integrity["notes"], *insensitive(rows)],
    }
    costs = efficiency(observations)
    return replace(done, sensitivity=rows, integrity=counts, efficiency=costs)


def of_arms(table: pd.DataFrame, arms: Sequence[BadArm]) -> np.ndarray:
    """Which requests are of one of these arms."""
    found = np.zeros(len(table), dtype=bool)
    for arm in arms:
        same = [table[name] == getattr(arm, name) for name in ("task", "policy", "budget")]
        found |= np.logical_and.reduce(same)
    return found


def sensitivity(observations: pd.DataFrame, rules: Rules, sick: Sick) -> list[CellRow]:
    """The row over all bins of every bad arm, in no family with any other."""
    bad = of_arms(observations, rules.bad_arms)
    table = checked_observations(observations[bad | (observations["policy"] == FULL_CACHE)])
    alone = replace(rules, correction="none", planned_cells=None)
    joined = pair(table)
    requests = Requests(joined)
    facts = {key: facts_of(rows, alone) for key, rows in requests.items()}
    judged = judged_cells(joined, requests, facts, alone, sick)
    return [row for key, row in judged.rows.items() if key.is_pooled]


def insensitive(rows: Sequence[CellRow]) -> Iterator[str]:
    """A sentence for every bad arm that does not break."""
    for row in rows:
        if row["verdict"] != "breaks":
            yield (
                f"insensitive: {where(row)}, known to be bad, does not break"
                f"{_figures(row)}: a `holds` on this task means little."
            )


def _figures(row: CellRow) -> str:
    if row["delta"] is None or row["ci_low"] is None or row["ci_high"] is None:
        return f" ({row['reason']})" if row["reason"] else ""
    return f" ({row['delta']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}])"
