"""What only the requests know about a cell: what was lost, what was applied, what has labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pytest_kvbench.analyse.binstats import mean
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.tables import CELL, cell_key
from pytest_kvbench.cellkey import CellKey

NOT_APPLIED, PROVEN, UNVERIFIED = "not-applied", "proven", "unverified"


def by_cell(joined: pd.DataFrame) -> Iterator[tuple[CellKey, pd.DataFrame]]:
    """The joined requests of every treated cell."""
    for key, rows in joined.groupby(CELL, sort=True):
        yield cell_key(key), rows


def facts_of(rows: pd.DataFrame, rules: Rules) -> dict[str, Any]:
    """The facts of one cell, by the names of `summary.json`.

    A cell is `not-applied` when that is proven for more of its answers than may be lost.
    """
    answers = rows[rows["score"].notna()]
    clean = rows[~rows["lost"] & ~rows["labelled"]]
    idle = float((answers["proof"] == NOT_APPLIED).mean()) if len(answers) else 0.0
    proven = len(answers) and (answers["proof"] != UNVERIFIED).all()
    return {
        "achieved": mean(answers["achieved"]),
        "proof": NOT_APPLIED if idle > rules.max_lost else PROVEN if proven else UNVERIFIED,
        "lost": int(rows["lost"].sum()),
        "lost_share": float(rows["lost"].mean()),
        "delta_unlabelled": mean(clean["score"] - clean["score_control"]),
    }


def why_unmeasured(facts: Mapping[str, Any], rules: Rules) -> str:
    """Why a cell must not be judged, or ""."""
    if facts["proof"] == NOT_APPLIED:
        return "the engine's own figures prove that the budget was not applied"
    if facts["lost_share"] > rules.max_lost:
        return (
            f"{facts['lost']} pairs ({facts['lost_share']:.0%}) were lost to failures; "
            f"at most {rules.max_lost:.0%} may be"
        )
    return ""


def pooled_facts(facts: Mapping[CellKey, Mapping[str, Any]]) -> dict[CellKey, dict[str, Any]]:
    """The facts of each row over bins: counts summed, the rest an equal-weight mean of the bins."""
    groups: dict[CellKey, list[Mapping[str, Any]]] = {}
    for key, of_cell in facts.items():
        groups.setdefault(key.pooled, []).append(of_cell)
    return {key: _pooled(members) for key, members in groups.items()}


def _pooled(members: list[Mapping[str, Any]]) -> dict[str, Any]:
    proofs = {facts["proof"] for facts in members}
    return {
        "achieved": _mean(members, "achieved"),
        "proof": proofs.pop() if len(proofs) == 1 else UNVERIFIED,
        "lost": sum(facts["lost"] for facts in members),
        "lost_share": _mean(members, "lost_share"),
        "delta_unlabelled": _mean(members, "delta_unlabelled"),
    }


def _mean(members: list[Mapping[str, Any]], name: str) -> float | None:
    known = [facts[name] for facts in members if facts[name] is not None]
    return float(np.mean(known)) if known else None
