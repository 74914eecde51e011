"""Pairs whose truth is known, and draws that were not drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from pytest_kvbench.posterior.curves import CurveKey, Curves, Pairs

LADDER = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1)
OCTAVES = -np.log2(np.array(LADDER))
FLAT = np.zeros(6)
SLOPE = np.clip(0.9 / (1 + np.exp(-(OCTAVES - 1.6) / 0.35)) - 0.01, 0, 1)
CLIFF = np.where(OCTAVES > 1.2, 0.7, 0.0)
BUMP = np.array([0.0, 0.3, 0.6, 0.4, 0.1, 0.0])


def key(policy: str = "p", group: str = "g", task: str = "t", low: int = 100) -> CurveKey:
    return CurveKey(group, task, low, 2 * low, policy)


def planted(
    where: CurveKey, broken: np.ndarray, n: int, rng: np.random.Generator, *, right: float = 0.85
) -> Pairs:
    """n pairs of which a policy breaks these shares: an answer that broke stays broken."""
    control = rng.random(n) < right
    is_broken = rng.random(n)[:, None] < broken
    flips = rng.random((n, len(broken))) < np.where(control[:, None], 0.03, 0.07)
    luck = rng.random((n, len(broken))) < 0.03
    treated = np.where(is_broken, luck, control[:, None] ^ flips)
    return Pairs(where, LADDER, control.astype(float), treated.astype(float), np.arange(n))


def losses(broken: np.ndarray, right: float = 0.85) -> np.ndarray:
    """The loss that `planted` plants."""
    wrongly = (1 - broken) * 0.03 + broken * 0.97
    luckily = (1 - broken) * 0.07 + broken * 0.03
    return np.asarray(right * wrongly - (1 - right) * luckily)


class Column:
    """A variable of a trace, shape (chains, draws, ...)."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, float)[None]

    def to_numpy(self) -> np.ndarray:
        return self.values


def as_if_drawn(data: Curves, draws: int, **values: Any) -> Any:
    """A trace of equal draws; what is not given is that of `planted`."""
    curves, bases, tasks = len(data.keys), len(data.asked), len(data.tasks)
    usual = {
        "accuracy": np.full(bases, 0.85),
        "lost": np.full(bases, 0.03),
        "gained": np.full(bases, 0.07),
        "luck": np.full(tasks, 0.03),
        "persistence": np.array(0.99),
        "location": np.full(curves, 1.6),
        "scale": np.full(curves, 0.35),
        "depth": np.full(curves, 0.9),
    }
    whole = {
        name: Column(np.repeat(np.asarray(value)[None], draws, axis=0))
        for name, value in {**usual, **values}.items()
    }
    return SimpleNamespace(posterior=whole)
