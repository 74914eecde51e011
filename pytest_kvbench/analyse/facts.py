"""What only the requests know about a cell: what was lost, what was applied, what has labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from pytest_kvbench import hints
from pytest_kvbench.analyse import arrival
from pytest_kvbench.analyse.binstats import mean
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.tables import CELL, cell_key, places
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.observation import Cut
from pytest_kvbench.records import NOT_APPLIED, PROVEN, SIMULATED, UNVERIFIED, Proof
from pytest_kvbench.rows import Facts

NOT_ASKED: Final[Facts] = {
    "achieved": None,
    "proof": UNVERIFIED,
    "lost": 0,
    "lost_share": 0.0,
    "delta_unlabelled": None,
}
"""The facts of a cell that was not asked, because its control is not sane."""


class Requests(Mapping[CellKey, pd.DataFrame]):
    """The joined requests of every treated cell: a table of its own when it is looked at."""

    def __init__(self, joined: pd.DataFrame) -> None:
        self._joined = joined
        self._places = {cell_key(key): rows for key, rows in places(joined, CELL)}

    def __getitem__(self, key: CellKey) -> pd.DataFrame:
        return self._joined.take(self._places[key])

    def __iter__(self) -> Iterator[CellKey]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def facts_of(rows: pd.DataFrame, rules: Rules) -> Facts:
    """The facts of one cell, by the names of `summary.json`.

    A cell is `not-applied` when that is proven for more of its answers than may be lost.
    """
    score, control, achieved = (
        rows[name].to_numpy(dtype=float) for name in ("score", "score_control", "achieved")
    )
    lost, answered = rows["lost"].to_numpy(dtype=bool), ~np.isnan(score)
    clean = ~lost & ~rows["labelled"].to_numpy(dtype=bool)
    proofs = Counter(rows["proof"].to_numpy()[answered].tolist())
    idle = proofs[NOT_APPLIED] / proofs.total() if proofs else 0.0
    shown = proofs and not proofs[UNVERIFIED]
    proven: Proof = SIMULATED if proofs[SIMULATED] else PROVEN
    return {
        "achieved": mean(achieved[answered]),
        "proof": NOT_APPLIED if idle > rules.max_lost else proven if shown else UNVERIFIED,
        "lost": int(lost.sum()),
        "lost_share": float(lost.mean()),
        "delta_unlabelled": mean((score - control)[clean]),
    }


def cuts_of(rows: pd.DataFrame) -> list[Cut]:
    """How the prompts of pairs were cut, one a pair that was: both are sent the same."""
    both = zip(rows["cut"], rows["cut_control"], strict=True)
    return [cut for pair in both if (cut := next((c for c in pair if isinstance(c, Cut)), None))]


def why_unmeasured(facts: Facts, rows: pd.DataFrame, rules: Rules) -> str:
    """Why a cell must not be judged, or ""."""
    if facts["proof"] == NOT_APPLIED:
        return "the engine's own figures prove that the budget was not applied"
    if facts["lost_share"] > rules.max_lost:
        return (
            f"{hints.count(facts['lost'], 'pair')} ({facts['lost_share']:.0%}) "
            f"{hints.were(facts['lost'])} lost to failures; "
            f"at most {rules.max_lost:.0%} may be"
        )
    return arrival.why_unmeasured(cuts_of(rows), len(rows), rules.max_cut)


def pooled_facts(facts: Mapping[CellKey, Facts]) -> dict[CellKey, Facts]:
    """The facts of each row over bins: counts summed, the rest an equal-weight mean of the bins."""
    groups: dict[CellKey, list[Facts]] = {}
    for key, of_cell in facts.items():
        groups.setdefault(key.pooled, []).append(of_cell)
    return {key: _pooled(members) for key, members in groups.items()}


def _pooled(members: Sequence[Facts]) -> Facts:
    proofs = {facts["proof"] for facts in members}
    return {
        "achieved": _mean(facts["achieved"] for facts in members),
        "proof": _weakest(proofs),
        "lost": sum(facts["lost"] for facts in members),
        "lost_share": float(np.mean([facts["lost_share"] for facts in members])),
        "delta_unlabelled": _mean(facts["delta_unlabelled"] for facts in members),
    }


def _weakest(proofs: set[Proof]) -> Proof:
    """Of bins that differ nothing is shown, but that some only simulate what others do."""
    if proofs == {PROVEN, SIMULATED}:
        return SIMULATED
    return next(iter(proofs)) if len(proofs) == 1 else UNVERIFIED


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
