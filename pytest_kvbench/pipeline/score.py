"""Stored answers get their scores."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import measures
from pytest_kvbench.pipeline.observe import TOGETHER
from pytest_kvbench.records import ReasoningRule, Score
from pytest_kvbench.score.agreement import agreement
from pytest_kvbench.score.metric import score_answer
from pytest_kvbench.store.store import Store, Unscored


def score(store: Store, keys: Sequence[str], experiment: Experiment) -> int:
    """Score the answers among `keys` that have no score by an experiment's rules yet; how many."""
    count, rule = 0, experiment.sampling.reasoning
    measure = measures.of_distributions(experiment)
    for start in range(0, len(keys), TOGETHER):
        rows = [
            (u.key, u.metric, _scored(u, rule))
            for u in store.unscored(keys[start : start + TOGETHER], rule, measure)
        ]
        if rows:
            store.save_scores(rows, rule)
        count += len(rows)
    return count


def _scored(answer: Unscored, rule: ReasoningRule) -> Score:
    if answer.divergence is not None:
        return agreement(answer.divergence, answer.metric)
    return score_answer(
        answer.metric,
        answer.text,
        answer.finish_reason,
        answer.answers,
        answer.meta,
        answer.context,
        rule=rule,
        reasoning=answer.reasoning,
    )
