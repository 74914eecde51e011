"""One row per run, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CATALOG = [
    "started_at",
    "group",
    "engine",
    "model",
    "tasks",
    "policies",
    "budgets",
    "answers",
    "failures",
    "holds",
    "breaks",
    "undetermined",
    "not_measured",
    "question_aware",
    "temperature",
    "max_tokens",
    "trials",
    "self_consistency",
    "seed",
    "margin",
    "alpha",
    "mode",
    "run_id",
    "finished_at",
    "git_commit",
    "kvbench",
    "command",
    "source",
]


def catalog(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, newest first. Verdicts are those of a group's last run; none for the others.

    Those of one group are in the order in which they were stored, whatever the clock said: none
    counts as later than the run after it.
    """
    backwards = runs.iloc[::-1]
    began = backwards["started_at"].rank(method="dense")
    no_later = began.groupby(backwards["source"], sort=False).cummin()
    ordered = backwards.loc[no_later.sort_values(ascending=False, kind="stable").index]
    return ordered[CATALOG].reset_index(drop=True)
