"""What a posterior is made from: paired scores as counts or moments, a curve over budgets each.

A curve is one policy's losses at one task and length in one group, over the budgets of its ladder.
Right and wrong answers that agree in everything are one row with a count; graded scores are the
means of their differences and how these vary together. A posterior of 100,000 answers costs no more
than that. Arrays alone: no pandas, no sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MISSING = -1
"""An outcome that was not measured: a budget off the ladder, a pair that was lost."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CurveKey:
    """Whose losses: `policy` with its settings, `task`, prompts of `low` to `high` tokens, both in.

    Of a bin without an edge there stands what was seen.
    """

    group: str
    task: str
    low: int
    high: int
    policy: str

    @property
    def base(self) -> tuple[str, str, int, int]:
        """The examples, which all policies of a group share with one control."""
        return self.group, self.task, self.low, self.high


@dataclass(frozen=True, eq=False)
class Pairs:
    """The scores of one curve, in [0, 1]; n pairs, k budgets.

    Attributes:
        budgets: the ladder without 1.0, descending, shape (k,).
        control: the control's scores, shape (n,).
        treated: the treated scores, NaN where there is none, shape (n, k).
        cluster: whole numbers; pairs that share one are not independent, shape (n,).
        tokens: the prompts' median; None for the middle of the key's.
    """

    key: CurveKey
    budgets: tuple[float, ...]
    control: Floats
    treated: Floats
    cluster: NDArray[np.intp]
    tokens: float | None = None

    @property
    def length(self) -> float:
        """How long its prompts are, in tokens; at least 1."""
        middle = (self.key.low + self.key.high) / 2
        return max(1.0, middle if self.tokens is None else self.tokens)

    @property
    def is_binary(self) -> bool:
        """Whether every score is 0 or 1."""
        scores = np.concatenate([self.control, self.treated.ravel()])
        return bool(np.isin(scores[~np.isnan(scores)], (0, 1)).all())


@dataclass(frozen=True, eq=False)
class Counts:
    """Pairs that are right or wrong, equal ones as one row; r rows.

    Attributes:
        curve: a row's curve, shape (r,).
        control: whether its control is right, shape (r,).
        outcome: 1 right, 0 wrong or `MISSING`, by rung, shape (r, k).
        count: for how many independent pairs it stands, shape (r,).
    """

    curve: NDArray[np.intp]
    control: NDArray[np.bool_]
    outcome: NDArray[np.int8]
    count: Floats


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean losses of graded scores on the scale of artanh, whitened; m curves.

    Attributes:
        curve: which, shape (m,).
        loss: mean of control - treated by rung, shape (m, k).
        whitener: W with W cov(artanh loss) W' = 1, rows of zeros for rungs that were not measured,
            shape (m, k, k).
    """

    curve: NDArray[np.intp]
    loss: Floats
    whitener: Floats


@dataclass(frozen=True, eq=False)
class Curves:
    """All curves of one posterior; c curves, k rungs at most, b bases.

    Attributes:
        ladders: the budgets of every curve, descending, without 1.0.
        octaves: log2(1 / budget), padded with the last, shape (c, k).
        base: the base of a curve, shape (c,).
        asked, right: by base, how many independent control answers and the sum of their scores.
        lengths: `Pairs.length` of a curve, shape (c,).
        pairs: how many pairs a curve has, shape (c,).
    """

    keys: tuple[CurveKey, ...]
    ladders: tuple[tuple[float, ...], ...]
    octaves: Floats
    base: NDArray[np.intp]
    asked: Floats
    right: Floats
    lengths: Floats
    pairs: NDArray[np.intp]
    counts: Counts
    moments: Moments

    @property
    def policies(self) -> tuple[str, ...]:
        """By name, in order."""
        return tuple(sorted({key.policy for key in self.keys}))

    @property
    def tasks(self) -> tuple[str, ...]:
        """By name, in order."""
        return tuple(sorted({key.task for key in self.keys}))

    @property
    def bases(self) -> tuple[tuple[str, str, int, int], ...]:
        """The examples of groups, in order."""
        return tuple(sorted({key.base for key in self.keys}))


def curves(pairs: Sequence[Pairs]) -> Curves:
    """Scores as counts and moments.

    Args:
        pairs: one entry a curve, at least one.

    Returns:
        The curves, ordered by key whatever the order of `pairs`.
    """
    ordered = sorted(pairs, key=lambda p: (p.key.policy, p.key.base))
    rungs = max(len(p.budgets) for p in ordered)
    bases = sorted({p.key.base for p in ordered})
    graded = {p.key.base for p in ordered if not p.is_binary}
    of_base = {base: _fullest([p for p in ordered if p.key.base == base]) for base in bases}
    weights = {base: 1 / design_effect(p) for base, p in of_base.items()}
    numbered = list(enumerate(ordered))
    return Curves(
        keys=tuple(p.key for p in ordered),
        ladders=tuple(p.budgets for p in ordered),
        octaves=np.stack([_octaves(p.budgets, rungs) for p in ordered]),
        base=np.array([bases.index(p.key.base) for p in ordered]),
        asked=np.array([len(of_base[base].control) * weights[base] for base in bases]),
        right=np.array([of_base[base].control.sum() * weights[base] for base in bases]),
        lengths=np.array([p.length for p in ordered]),
        pairs=np.array([len(p.control) for p in ordered]),
        counts=_counts([(n, p) for n, p in numbered if p.key.base not in graded], rungs),
        moments=_moments([(n, p) for n, p in numbered if p.key.base in graded], rungs),
    )


def design_effect(p: Pairs) -> float:
    """How many times more the mean loss varies than if no pairs shared a context; at least 1.

    Mean over rungs of the ratio of the cluster-robust variance to the usual one (Kish's deff).
    """
    loss = p.control[:, None] - p.treated
    ratios = []
    for rung in loss.T:
        there = ~np.isnan(rung)
        residual = rung[there] - rung[there].mean() if there.any() else rung[there]
        alone = (residual**2).sum()
        if alone > 0:
            ratios.append((_sums(residual, p.cluster[there]) ** 2).sum() / alone)
    return max(1.0, float(np.mean(ratios))) if ratios else 1.0


def _sums(values: Floats, cluster: NDArray[np.intp]) -> Floats:
    _, code = np.unique(cluster, return_inverse=True)
    return np.bincount(code, weights=values).astype(np.float64)


def _fullest(same: Sequence[Pairs]) -> Pairs:
    """The same examples in every curve of a base: where most of them are left."""
    return max(same, key=lambda p: len(p.control))


def _octaves(budgets: Sequence[float], rungs: int) -> Floats:
    return np.pad(-np.log2(budgets), (0, rungs - len(budgets)), mode="edge")


def _counts(numbered: Sequence[tuple[int, Pairs]], rungs: int) -> Counts:
    rows = [_patterns(number, p, rungs) for number, p in numbered]
    if not rows:
        none = np.zeros(0)
        return Counts(none.astype(np.intp), none.astype(bool), np.zeros((0, rungs), np.int8), none)
    curve, control, outcome, count = (np.concatenate(c) for c in zip(*rows, strict=True))
    return Counts(curve, control, outcome, count)


def _patterns(number: int, p: Pairs, rungs: int) -> tuple[NDArray[np.generic], ...]:
    outcome = np.where(np.isnan(p.treated), MISSING, p.treated).astype(np.int8)
    outcome = np.pad(outcome, ((0, 0), (0, rungs - outcome.shape[1])), constant_values=MISSING)
    rows = np.column_stack([p.control.astype(np.int8), outcome])
    patterns, count = np.unique(rows, axis=0, return_counts=True)
    return (
        np.full(len(patterns), number),
        patterns[:, 0].astype(bool),
        patterns[:, 1:],
        count / design_effect(p),
    )


def _moments(numbered: Sequence[tuple[int, Pairs]], rungs: int) -> Moments:
    loss = np.zeros((len(numbered), rungs))
    whitener = np.zeros((len(numbered), rungs, rungs))
    for row, (_, p) in enumerate(numbered):
        loss[row, : len(p.budgets)], whitener[row] = _whitened(p, rungs)
    return Moments(np.array([n for n, _ in numbered], np.intp), loss, whitener)


def _whitened(p: Pairs, rungs: int) -> tuple[Floats, Floats]:
    """The mean losses, and what makes their artanh's noise independent and of variance 1.

    Pairs that lack a rung count as having its mean loss, which changes neither.
    """
    each = p.control[:, None] - p.treated
    some = ~np.isnan(each).all(axis=0)
    mean = np.nanmean(np.where(some, each, 0), axis=0)
    residual = np.nan_to_num(each - mean)
    sums = np.column_stack([_sums(column, p.cluster) for column in residual.T])
    # A rung without any difference still could have had one in the next pair.
    covariance = sums.T @ sums / len(each) ** 2 + np.eye(len(mean)) / len(each) ** 2
    stretch = 1 / (1 - np.clip(mean, -0.99, 0.99) ** 2)
    kept = np.flatnonzero(some)
    scaled = (covariance * np.outer(stretch, stretch))[np.ix_(kept, kept)]
    whitener = np.zeros((rungs, rungs))
    whitener[np.ix_(kept, kept)] = np.linalg.inv(np.linalg.cholesky(scaled))
    return np.clip(mean, -0.99, 0.99), whitener
