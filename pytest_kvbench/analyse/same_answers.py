"""Two arms that are one: answers equal to another arm's wherever either differs from the control.

On an easy task all arms agree, and that proves nothing. Where two arms both leave the control and
still agree word for word, one of them is most likely the other (kvpress's pyramidkv is snapkv below
1,280 kept tokens; a server may ignore a budget it does not know).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pytest_kvbench.analyse.tables import CELL, GROUP, cell_key
from pytest_kvbench.cellkey import CellKey

FEWEST_CHANGED = 5
SAME = 0.95
ARM = [column for column in CELL if column not in GROUP]
ANSWER = ["example_id", "replicate"]


def twins(joined: pd.DataFrame) -> list[tuple[CellKey, CellKey, str]]:
    """Pairs of cells of one task, bin and variant that answer alike, with a sentence on each.

    Args:
        joined: treated requests beside their controls, as `pairs.pair` gives them.
    """
    kept = joined.loc[~joined["lost"], [*GROUP, *ARM, *ANSWER]]
    texts = joined.loc[kept.index, ["text", "text_control"]]
    kept["said"] = pd.factorize(texts["text"])[0]
    kept["changed"] = (texts["text"] != texts["text_control"]).astype(float)
    return [
        twin
        for group, rows in kept.groupby(GROUP, sort=True)
        for twin in _of_group(tuple(group), rows)
    ]


def _of_group(
    group: tuple[object, ...], rows: pd.DataFrame
) -> Iterator[tuple[CellKey, CellKey, str]]:
    wide = rows.pivot(index=ANSWER, columns=ARM, values=["said", "changed"]).sort_index(axis=1)
    said, changed = wide["said"], wide["changed"]
    for a, b in itertools.combinations(said.columns, 2):
        found = _compare(said[a], said[b], (changed[a] + changed[b]).to_numpy())
        if found:
            one, other = cell_key((*group, *a)), cell_key((*group, *b))
            yield one, other, _sentence(one, other, *found)


def _compare(
    one: pd.Series[float], other: pd.Series[float], changed: np.ndarray
) -> tuple[int, int] | None:
    """(equal, changed) answers where that is suspicious; NaN: one of the arms has no answer."""
    differs = changed > 0
    equal = int((one.to_numpy() == other.to_numpy())[differs].sum())
    total = int(differs.sum())
    return (equal, total) if total >= FEWEST_CHANGED and equal >= SAME * total else None


def _sentence(one: CellKey, other: CellKey, equal: int, total: int) -> str:
    return (
        f"{one.policy} at {one.budget:g} and {other.policy} at {other.budget:g} give the same text "
        f"on {equal} of the {total} examples where either differs from the control: "
        "possibly one treatment"
    )
