"""The difference of two means over different examples.

To each sample one example of score 0 and one of score 1 is added, then Welch's t interval is taken:
for right-or-wrong scores that is Agresti and Caffo's interval (2000), whose coverage stays near its
level from n = 10 on and which never has width zero. Clusters are kept together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores in [0, 1] and their clusters, shape (n,) each."""

    scores: np.ndarray
    clusters: np.ndarray


@dataclass(frozen=True)
class TwoMeans:
    """The second mean minus the first: its estimate, standard error and degrees of freedom."""

    delta: float
    error: float
    freedom: float

    def interval(self, alpha: float) -> tuple[float, float]:
        """At 1 - alpha, within [-1, 1]."""
        reach = -float(special.stdtrit(self.freedom, alpha / 2)) * self.error
        return max(-1.0, self.delta - reach), min(1.0, self.delta + reach)

    def p_at_most(self, bound: float) -> float:
        """One-sided p-value against "the true difference is at most `bound`"."""
        return float(special.stdtr(self.freedom, (bound - self.delta) / self.error))

    def p_at_least(self, bound: float) -> float:
        """One-sided p-value against "the true difference is at least `bound`"."""
        return float(special.stdtr(self.freedom, (self.delta - bound) / self.error))


def two_means(strata: Sequence[tuple[Sample, Sample]]) -> TwoMeans:
    """The equal-weight mean over strata (bins) of second minus first."""
    parts = [_moments(sample) for pair in strata for sample in pair]
    deltas = [later[0] - former[0] for former, later in zip(parts[::2], parts[1::2], strict=True)]
    variances = np.array([variance for _, variance, _ in parts]) / len(strata) ** 2
    freedoms = np.array([freedom for _, _, freedom in parts])
    total = float(variances.sum())
    welch = total**2 / float((variances**2 / freedoms).sum())
    return TwoMeans(float(np.mean(deltas)), math.sqrt(total), welch)


def _moments(sample: Sample) -> tuple[float, float, float]:
    """Mean, its variance, and degrees of freedom, two examples added."""
    scores = np.append(sample.scores, [0.0, 1.0])
    codes = _codes(sample.clusters)
    mean, n, k = float(scores.mean()), len(scores), int(codes.max()) + 1
    totals = np.bincount(codes, weights=scores - mean)
    return mean, float((totals**2).sum()) / n**2 * k / (k - 1), k - 1.0


def _codes(clusters: np.ndarray | Sequence[Any]) -> np.ndarray:
    """Clusters as integers, the added examples each in one of its own."""
    known, codes = np.unique(np.asarray(clusters), return_inverse=True)
    return np.append(codes, [len(known), len(known) + 1])
