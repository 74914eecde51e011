"""Statistics: pairs, intervals, verdicts, transitions, integrity, power. Tables in, typed rows out.

    observations -> pairs -> cells (evidence -> interval, verdict) -> multiplicity (Holm)
                          -> pooled bins -> transitions (bracket, fit, shape)
                          -> facts, artefacts, same_answers -> integrity
                 -> binstats, efficiency

A worker judges a cell by `cell.judge_cell`, which needs numpy and scipy.special only; pandas is
imported when a table is analysed. Importing this package imports neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_kvbench.analyse.rules import Analysis, Rules
from pytest_kvbench.cellkey import CellGroup

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Analysis", "Rules", "analyse"]


def analyse(
    observations: pd.DataFrame,
    rules: Rules,
    sick: Mapping[CellGroup, str] = MappingProxyType({}),
) -> Analysis:
    """Analyse an experiment's observations, one row per request, controls included.

    Args:
        observations: the columns of `pytest_kvbench.analyse.pairs.OBSERVATIONS`.
        rules: margin, error rates and thresholds.
        sick: what is wrong with the control of a group, so that nothing can be compared with it.
            Its treatments are not measured, for that reason.

    Raises:
        UsageError: a column is missing, a row is there twice, or a score is outside [0, 1].
    """
    from pytest_kvbench.analyse.assay import analyse_with_bad_arms

    return analyse_with_bad_arms(observations, rules, sick)
