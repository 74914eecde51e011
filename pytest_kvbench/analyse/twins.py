"""Two arms that are one: answers equal to another arm's wherever either differs from the control.

On an easy task all arms agree, and that proves nothing. Where two arms both leave the control and
still agree word for word, one of them is most likely the other (kvpress's pyramidkv is snapkv below
1,280 kept tokens; a server may ignore a budget it does not know).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd

from pytest_kvbench.analyse.cells import CellKey

FEWEST_CHANGED = 5
SAME = 0.95


def twins(cells: Mapping[CellKey, pd.DataFrame]) -> list[tuple[CellKey, CellKey, str]]:
    """Pairs of cells of one task, bin and variant that answer alike, with a sentence.

    Args:
        cells: joined requests by cell.
    """
    groups: dict[tuple[str, object, str], list[CellKey]] = {}
    for key in cells:
        groups.setdefault((key.task, key.bin, key.variant), []).append(key)
    texts = {key: _texts(rows) for key, rows in cells.items()}
    found = [
        (a, b, _compare(a, b, texts[a], texts[b]))
        for members in groups.values()
        for a, b in itertools.combinations(members, 2)
    ]
    return [(a, b, said) for a, b, said in found if said]


def _texts(rows: pd.DataFrame) -> pd.DataFrame:
    kept = rows.loc[~rows["lost"], ["example_id", "replicate", "text", "text_control"]]
    return kept.set_index(["example_id", "replicate"])


def _compare(a: CellKey, b: CellKey, left: pd.DataFrame, right: pd.DataFrame) -> str:
    both = left.join(right["text"], how="inner", rsuffix="_other")
    changed = both[
        (both["text"] != both["text_control"]) | (both["text_other"] != both["text_control"])
    ]
    equal = int((changed["text"] == changed["text_other"]).sum())
    if len(changed) < FEWEST_CHANGED or equal < SAME * len(changed):
        return ""
    return (
        f"{a.policy} at {a.budget:g} and {b.policy} at {b.budget:g} give the same text on {equal} "
        f"of the {len(changed)} examples where either differs from the control: "
        "possibly one treatment"
    )
