"""A budget curve that may only rise with the budget, and where it crosses the margin.

Rows of the arrays are curves (the one seen, or resampled ones); columns are budgets, ascending.
"""

from __future__ import annotations

import numpy as np

NEVER = 0.0  # no budget of the ladder loses the margin: the crossing lies below all of them


def isotonic(curves: np.ndarray) -> np.ndarray:
    """The closest non-decreasing curves in least squares.

    Args:
        curves: shape (r, k).

    Returns:
        Shape (r, k): at j, the largest over a <= j of the smallest over b >= j of mean(a..b)
        (the max-min formula, Barlow et al. 1972).
    """
    k = curves.shape[1]
    totals = np.cumsum(np.pad(curves, ((0, 0), (1, 0))), axis=1)
    start, stop = np.arange(k)[:, None], np.arange(1, k + 1)[None, :]
    within = stop > start
    means = (totals[:, stop] - totals[:, start]) / np.where(within, stop - start, 1)
    means = np.where(within, means, np.inf)
    smallest = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
    fits: np.ndarray = np.where(within, smallest, -np.inf).max(axis=1)
    return fits


def crossing(fits: np.ndarray, budgets: np.ndarray, margin: float) -> np.ndarray:
    """The budget at which each fit passes -margin, linear in log budget; `NEVER` where none does.

    Args:
        fits: shape (r, k), non-decreasing mean differences from the control.
        budgets: shape (k,), ascending, below 1. The control itself, 0 at budget 1, ends each curve.
        margin: the acceptable loss.

    Returns:
        Shape (r,).
    """
    ladder = np.log(np.append(budgets, 1.0))
    values = np.concatenate([fits, np.zeros((len(fits), 1))], axis=1)
    below = (fits < -margin).sum(axis=1)
    rows, left = np.arange(len(fits)), np.maximum(below - 1, 0)
    low, high = values[rows, left], values[rows, left + 1]
    part = (-margin - low) / np.where(high > low, high - low, 1.0)
    found = np.exp(ladder[left] + part * (ladder[left + 1] - ladder[left]))
    return np.where(below > 0, found, NEVER)
