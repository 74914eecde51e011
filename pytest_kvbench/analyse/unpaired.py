"""The difference of two means over different examples, bins as strata of equal weight.

Several bins of right-or-wrong scores of independent examples: the rule of `strata`, each sample a
binomial of its own. Else Welch's t, whose variances come from samples with one context of score 0
and one of score 1 added, so that none is zero. One bin takes its means from there too: for
right-or-wrong scores of single examples that is Agresti and Caffo's interval (2000). Over many
small bins of unequal samples that would add up to a bias. Clusters are kept together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special

from pytest_kvbench.analyse.evidence import Evidence
from pytest_kvbench.analyse.strata import lattice, pull_at, weighted_tail


@dataclass(frozen=True, eq=False)
class Sample:
    """Scores in [0, 1] and their clusters, shape (n,) each."""

    scores: np.ndarray
    clusters: np.ndarray

    @property
    def is_binary(self) -> bool:
        """Whether these are right-or-wrong scores of independent examples."""
        single = len(np.unique(self.clusters)) == len(self.clusters)
        return single and bool(((self.scores == 0) | (self.scores == 1)).all())


Strata = Sequence[tuple[Sample, Sample]]


def two_samples(strata: Strata) -> Evidence:
    """The evidence on the equal-weight mean over strata (bins) of second minus first."""
    if len(strata) > 1 and all(sample.is_binary for pair in strata for sample in pair):
        right, sizes = (
            np.array([[of(sample) for sample in pair] for pair in strata]).T
            for of in (lambda sample: sample.scores.sum(), lambda sample: len(sample.scores))
        )
        return BinarySamples(right, sizes)
    return two_means(strata)


@dataclass(frozen=True, eq=False)
class BinarySamples:
    """Right answers and all answers of the former and the latter sample, shape (2, strata) each."""

    right: np.ndarray
    sizes: np.ndarray
    method: str = "score, exact tail, two samples"
    floor: float = -1.0

    @property
    def n(self) -> int:
        """Answers in both samples."""
        return int(self.sizes.sum())

    @property
    def estimate(self) -> float:
        """The mean of the strata's differences."""
        former, latter = self.right / self.sizes
        return float((latter - former).mean())

    @property
    def variance(self) -> float:
        """Of one answer's share in the difference: n times the squared error."""
        rate = self.right / self.sizes
        error = (rate * (1 - rate) / self.sizes).sum() / self.sizes.shape[1] ** 2
        return float(self.n * error)

    def mirrored(self) -> BinarySamples:
        """The samples swapped."""
        return replace(self, right=self.right[::-1], sizes=self.sizes[::-1])

    def grown(self, factor: float) -> BinarySamples:
        """All counts times `factor`."""
        return replace(self, right=self.right * factor, sizes=np.ceil(self.sizes * factor))

    def p_above(self, delta: float) -> float:
        """P(difference as seen or larger), at the likeliest rates of mean difference `delta`."""
        former, latter = self._rates(pull_at(self._mean_at, delta, float(self.sizes.max())))
        nothing = np.zeros_like(former)
        weights = self._weights
        seen = round(float((weights[1] * self.right[1] - weights[0] * self.right[0]).sum()))
        return weighted_tail(
            self.sizes.ravel(),
            np.concatenate([former, nothing]),
            np.concatenate([nothing, latter]),
            weights.ravel(),
            seen,
        )

    def _rates(self, pull: float) -> tuple[np.ndarray, np.ndarray]:
        """The rates that maximise log likelihood + pull (latter - former), per stratum."""
        return (
            pulled_rate(self.right[0], self.sizes[0], -pull),
            pulled_rate(self.right[1], self.sizes[1], pull),
        )

    def _mean_at(self, pull: float) -> float:
        former, latter = self._rates(pull)
        return float((latter - former).mean())

    @cached_property
    def _weights(self) -> np.ndarray:
        return lattice(self.sizes)


def pulled_rate(right: np.ndarray, n: np.ndarray, pull: float) -> np.ndarray:
    """The rate p that maximises `right` log p + (n - right) log(1 - p) + pull p, per sample."""
    linear = n - pull
    root = np.sqrt(np.maximum(linear**2 + 4 * pull * right, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(linear > 0, 2 * right / (linear + root), (root - linear) / (2 * pull))
    kept: np.ndarray = rate.clip(0, 1)
    return kept


@dataclass(frozen=True)
class TwoMeans:
    """A difference of means: its estimate, standard error and degrees of freedom."""

    n: int
    estimate: float
    error: float
    freedom: float
    method: str = "Welch's t, two samples"
    floor: float = -1.0

    @property
    def variance(self) -> float:
        """n times the squared error."""
        return self.n * self.error**2

    def mirrored(self) -> TwoMeans:
        """The samples swapped."""
        return replace(self, estimate=-self.estimate)

    def grown(self, factor: float) -> TwoMeans:
        """What `factor` times as many answers would be."""
        return replace(self, n=math.ceil(self.n * factor), error=self.error / math.sqrt(factor))

    def p_above(self, delta: float) -> float:
        """One-sided p-value against "the true difference is at most `delta`"."""
        return float(special.stdtr(self.freedom, (delta - self.estimate) / self.error))


def two_means(strata: Strata) -> TwoMeans:
    """Welch's t for scores of any kind."""
    added = len(strata) == 1
    parts = [_moments(sample, added) for pair in strata for sample in pair]
    deltas = [later[0] - former[0] for former, later in zip(parts[::2], parts[1::2], strict=True)]
    variances = np.array([variance for _, variance, _ in parts]) / len(strata) ** 2
    freedoms = np.array([freedom for _, _, freedom in parts])
    total = float(variances.sum())
    welch = total**2 / float((variances**2 / freedoms).sum())
    n = sum(len(sample.scores) for pair in strata for sample in pair)
    return TwoMeans(n, float(np.mean(deltas)), math.sqrt(total), welch)


def _moments(sample: Sample, added: bool) -> tuple[float, float, float]:
    """The mean with its variance and freedom: that of the sample, or with two contexts `added`.

    The spread among contexts is always taken with these two, as large as the largest.
    """
    names, codes, counts = np.unique(sample.clusters, return_inverse=True, return_counts=True)
    k, size = len(names) + 2, int(counts.max())
    scores = np.append(sample.scores, np.repeat([0.0, 1.0], size))
    codes = np.append(codes, np.repeat([k - 2, k - 1], size))
    totals = np.bincount(codes, weights=scores - scores.mean())
    variance = float((totals**2).sum()) / len(scores) ** 2 * k / (k - 1)
    if added:
        return float(scores.mean()), variance, k - 1.0
    return float(sample.scores.mean()), variance * k / (k - 2), k - 1.0
