"""The A/A floor: how far the control agrees with itself, asked a second time as it was the first.

At the concurrency that was used: a server that answers alike one request after another may not
where several are decoded together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pytest_kvbench.analyse.pairs import ANSWER, measured_pairs, pair_controls
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.tables import GROUP
from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.records import SCORE
from pytest_kvbench.rows import NoiseFloor

REPEATED = "repeated"
"""Whether the control's second run gave the text of the first: 1.0, 0.0, NaN where it has none."""


@dataclass(frozen=True)
class Floor:
    """The control beside its own second run: pairs, those of one text, those of two scores."""

    pairs: int
    same: int
    discordant: int

    @property
    def discordance(self) -> float:
        """Share of pairs whose score differs although nothing was changed, in [0, 1]."""
        return self.discordant / self.pairs


def repeats(table: pd.DataFrame) -> pd.DataFrame:
    """The second run's answers of checked observations, each beside that of the first.

    Of distributions the second run is the control itself, and there is no other.
    """
    if not table["aa"].any():
        return table.iloc[:0]
    again = pair_controls(table[table["measure"] == SCORE])
    return again[~again["lost"]]


def floors(again: pd.DataFrame) -> dict[CellGroup, Floor]:
    """By task, bin and variant, where the control answered twice; elsewhere nothing is known.

    Args:
        again: the control's `repeats`.
    """
    found = {}
    for key, rows in again.groupby(GROUP, sort=True):
        task, bin_, variant, measure = map(str, key)
        found[CellGroup(task, int(bin_), variant, measure)] = floor_of(rows)
    return found


def floor_of(again: pd.DataFrame) -> Floor:
    """The floor of some `repeats`, counted reply by reply."""
    return Floor(
        pairs=len(again),
        same=int((again["text"] == again["text_control"]).sum()),
        discordant=int((again["score"] != again["score_control"]).sum()),
    )


def with_repeats(joined: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """Treated requests beside their controls, with the column `REPEATED`."""
    if again.empty:
        return joined.assign(**{REPEATED: np.nan})
    same = (again["text"] == again["text_control"]).astype(float)
    repeated = again[ANSWER].assign(**{REPEATED: same})
    return joined.merge(repeated, on=ANSWER, how="left", validate="many_to_one")


def noise_floor(again: pd.DataFrame, rules: Rules) -> NoiseFloor | None:
    """The difference of the control's second run from its first, over all tasks and bins."""
    if again.empty:
        return None
    pairs = measured_pairs(again)
    strata = [
        Pairs(*(rows[c].to_numpy() for c in ("control", "treated", "cluster")))
        for _, rows in pairs.groupby(GROUP, sort=True)
    ]
    result = judge_pooled(strata, margin=rules.margin, alpha=rules.alpha, anytime=rules.anytime)
    floor = floor_of(again)
    return {
        "n": result.n,
        "delta": result.delta,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "losses": result.losses,
        "gains": result.gains,
        "method": result.method,
        "tasks": dict(sorted(Counter(pairs["task"]).items())),
        "replies": floor.pairs,
        "same": floor.same,
        "discordance": floor.discordance,
    }
