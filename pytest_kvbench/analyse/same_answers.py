"""Two arms that are one: answers equal to another arm's wherever either differs from the control.

On an easy task all arms agree, and that proves nothing. Where two arms both leave the control and
still agree word for word, one of them is most likely the other (kvpress's pyramidkv is snapkv below
1,280 kept tokens; a server may ignore a budget it does not know). Bin by bin, as two arms may be
one at some lengths only, and over all bins together, each of which may have too few answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from pytest_kvbench.analyse.alike import Agreement
from pytest_kvbench.analyse.floor import REPEATED
from pytest_kvbench.analyse.tables import CELL, GROUP, group_numbers, grouped
from pytest_kvbench.cellkey import ALL_BINS, CellKey, ChainKey

FEWEST_CHANGED = 5
SAME = 0.95
ARM = [column for column in CELL if column not in GROUP]
ANSWER = ["bin", "example_id", "replicate"]


class Twins(NamedTuple):
    """Two cells that answer alike, and a sentence on them."""

    one: CellKey
    other: CellKey
    said: str


def twins(joined: pd.DataFrame) -> list[Twins]:
    """Pairs of cells of one task and variant that answer alike, in a bin or over all bins.

    Args:
        joined: treated requests beside their controls, as `pairs.pair` gives them, with what the
            control's second run said (`floor.with_repeats`).
    """
    kept = joined.loc[~joined["lost"], [*GROUP, *ARM, "example_id", "replicate", REPEATED]]
    texts = joined.loc[kept.index, ["text", "text_control"]]
    kept["said"] = pd.factorize(texts["text"])[0]
    kept["changed"] = (texts["text"] != texts["text_control"]).astype(float)
    return [*_in_bins(kept), *_over_bins(kept)]


def _in_bins(kept: pd.DataFrame) -> Iterator[Twins]:
    for key, rows in grouped(kept, GROUP):
        task, bin_, variant, measure = map(str, key)
        yield from _among(ChainKey(task, int(bin_), variant, "", measure), rows)


def _over_bins(kept: pd.DataFrame) -> Iterator[Twins]:
    """Of tasks with several bins: one bin is judged as itself."""
    for key, rows in grouped(kept, ["task", "variant", "measure"]):
        if rows["bin"].nunique() > 1:
            task, variant, measure = map(str, key)
            yield from _among(ChainKey(task, ALL_BINS, variant, "", measure), rows)


def _among(place: ChainKey, rows: pd.DataFrame) -> Iterator[Twins]:
    answer, arm = group_numbers(rows, ANSWER), group_numbers(rows, ARM)
    repeated = np.full(answer.max() + 1, np.nan)
    repeated[answer] = rows[REPEATED]
    said, changed = (np.full((arm.max() + 1, len(repeated)), np.nan) for _ in range(2))
    said[arm, answer], changed[arm, answer] = rows["said"], rows["changed"]
    arms = rows[ARM].iloc[np.unique(arm, return_index=True)[1]].itertuples(index=False)
    for (a, one_arm), (b, other_arm) in itertools.combinations(enumerate(arms), 2):
        both = changed[a] + changed[b]  # NaN: one of the arms has no answer
        known = ~np.isnan(both)
        found = Agreement.of((said[a] == said[b])[known], repeated[known], both[known] > 0)
        if is_one(found):
            one, other = (
                place._replace(policy=str(p)).rung(float(x)) for p, x in (one_arm, other_arm)
            )
            yield Twins(one, other, _sentence(one, other, found))


def is_one(found: Agreement) -> bool:
    """Whether two arms are suspiciously alike where either left the control.

    On nearly all of it; or, where the control does not always repeat itself, as far as its noise
    lets two runs of one arm be alike.
    """
    if found.total < FEWEST_CHANGED:
        return False
    if found.equal >= SAME * found.total:
        return True
    return bool(found.noise) and found.rules_out_a_change and not found.exceeds_noise


def _sentence(one: CellKey, other: CellKey, found: Agreement) -> str:
    return (
        f"{one.policy} at {one.budget:g} and {other.policy} at {other.budget:g} give the same text "
        f"on {found.equal} of the {found.total} examples where either differs from the control: "
        "possibly one treatment"
    )
