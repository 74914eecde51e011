"""Stored answers get their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_kvbench.score.metric import score_answer
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    pass
from pytest_kvbench.pipeline.observe import TOGETHER


def score(store: Store, keys: Sequence[str]) -> int:
    """Score the answers among `keys` that have no score yet; how many there were."""
    count = 0
    for start in range(0, len(keys), TOGETHER):
        rows = [
            (
                u.key,
                u.metric,
                score_answer(u.metric, u.text, u.finish_reason, u.answers, u.meta, u.context),
            )
            for u in store.unscored(keys[start : start + TOGETHER])
        ]
        if rows:
            store.save_scores(rows)
        count += len(rows)
    return count
