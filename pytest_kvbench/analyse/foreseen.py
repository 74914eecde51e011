"""The power of sampling in rounds, by simulation of the rule that stops it.

Right-or-wrong pairs of independent examples; the cells of a ladder are alike. Every simulated
ladder is judged at the looks of a real one, with the levels that decided cells hand on. That a cell
is given up early, where not even good luck would decide it, is left out: it costs no verdict that
two standard errors of luck would not have brought.
"""

from __future__ import annotations

import numpy as np

from pytest_kvbench.analyse.betting import FRACTIONS, WEIGHTS
from pytest_kvbench.analyse.multiplicity import fallback
from pytest_kvbench.analyse.sequential import FEWEST_PER_ROUND, ROUND_SHARE, Limits

LADDERS = 200


def looks(limits: Limits) -> np.ndarray:
    """After how many examples a group of single examples is judged."""
    found = [min(limits.least, limits.most)]
    while found[-1] < limits.most:
        n = found[-1]
        found.append(min(n + max(FEWEST_PER_ROUND, n // ROUND_SHARE), limits.most))
    return np.array(found)


def power_in_rounds(
    limits: Limits, rungs: int, discordance: float, delta: float, *, seed: int = 0
) -> float:
    """The share of a ladder's cells that hold, where all have the same true difference.

    Args:
        limits: margin, error of each cell, and how many examples at least and at most.
        rungs: cells of the ladder.
        discordance: share of examples whose score differs between the arms.
        delta: the true difference.
        seed: of the simulation; its standard error is at most 0.035.
    """
    random, n = np.random.default_rng(seed), looks(limits)
    held = [
        _held(_p_values(random, rungs, n, limits.margin, discordance, delta), limits.alpha)
        for _ in range(LADDERS)
    ]
    return float(np.mean(held))


def _p_values(
    random: np.random.Generator,
    rungs: int,
    n: np.ndarray,
    margin: float,
    discordance: float,
    delta: float,
) -> np.ndarray:
    """P-values of holds, shape (looks, rungs)."""
    draw = random.random((rungs, n[-1]))
    losses, gains = draw < (discordance - delta) / 2, draw > 1 - (discordance + delta) / 2
    counts = np.array([np.cumsum(kind, axis=1)[:, n - 1] for kind in (losses, gains)]) * 1.0
    seen = np.stack([*counts, n - counts.sum(axis=0)], axis=-1)
    wins = np.log1p(np.outer((np.array([-1.0, 1.0, 0.0]) + margin) / (1 - margin), FRACTIONS))
    wealth = np.exp(np.minimum(seen @ wins, 600)) @ WEIGHTS
    p: np.ndarray = np.minimum(1.0, 1 / np.maximum(wealth, 1e-300)).T
    return p


def _held(p: np.ndarray, alpha: float) -> float:
    """The share of cells that hold at some look; a decided one keeps the p-value it stopped at."""
    stopped = np.ones(p.shape[1])
    for now in p:
        stopped = np.where(stopped < 1, stopped, now)
        levels = np.array(fallback(list(stopped[::-1]), alpha)[::-1])
        stopped = np.where(stopped < levels / 2, stopped, 1.0)
    return float((stopped < 1).mean())
