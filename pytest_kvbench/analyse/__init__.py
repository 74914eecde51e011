"""Pairs, intervals, verdicts, transitions, integrity, power: tables in, plain data out.

    observations -> pairs -> cells (evidence -> interval, verdict) -> families (Holm)
                          -> pooled bins -> transitions (bracket, fit, shape)
                          -> facts, artefacts, twins -> integrity
                 -> bin_stats, efficiency

`judge_cell` needs numpy and scipy.special only, so that a pytest worker stays small; pandas is
imported when a table is analysed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_kvbench.analyse.cell import CellResult, judge_cell
from pytest_kvbench.analyse.rules import Analysis, Rules

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Analysis", "CellResult", "Rules", "analyse", "judge_cell"]


def analyse(observations: pd.DataFrame, rules: Rules) -> Analysis:
    """Analyse an experiment's observations, one row per request, controls included.

    Args:
        observations: the columns of `pytest_kvbench.analyse.pairs.OBSERVATIONS`.
        rules: margin, error rates and thresholds.

    Raises:
        UsageError: a column is missing, a row is there twice, or a score is outside [0, 1].
    """
    from pytest_kvbench.analyse.observations import analyse_observations

    return analyse_observations(observations, rules)
