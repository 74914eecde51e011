"""The model: priors and data as one vector and one tuple of arrays.

Every unknown is an affine function of standard normals, through exp where it is a spread and
through the logistic function where it is a share. A sampler then sees a standard normal prior
times a likelihood (`density`), whatever its kind.

    logit a         1 + 1.5 z                       by examples (group, task, length)
    logit f1, f0    -3.5 + z + spread z, -2.5 + z + spread z      by examples
    logit h         -3 + 1.25 z                     by task
    logit rho       1.7 z                           which is nearly uniform
    mu              2 + 1.5 z(policy) + spread z(task) + .5 z * length + spread z(curve)
    log(s - .03)    -1.7 + .8 z(policy) + spread z(curve)
    logit A         1 + 1.5 z(policy) + spread z(curve)
    log spread      log m + .6 z, m = .3 of f1, f0, slope and task, .4 of mu, .6 of A

The slope is shared within a policy, never across: one mean for all made a cliff look gradual.
rho is the share of answers that have a budget of their own below which they are broken; the others
break at each budget anew. Budgets share their examples: as independent binomials they counted each
example once a rung, and intervals were too short.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_kvbench.posterior.curves import Curves

Floats = NDArray[np.float64]

GLOBAL = ("rho", "f1", "f1 spread", "f0", "f0 spread", "length", "task", "mu", "s", "A")
"""The first entries of the vector; the last four are spreads of what `Sizes` counts."""

DRAWS = (
    "accuracy",
    "lost",
    "gained",
    "luck",
    "persistence",
    "location",
    "scale",
    "depth",
    "loss",
    "log_prior",
)
"""What is kept of a draw: a, f1 and f0 by examples, h by task, rho; mu, s, A and L by curve.

`log_prior` is that of what all curves share: globals, tasks' luck and policies' means.

mu, s and A are not identified by themselves (a flat curve has A near 0, or mu beyond the ladder):
they are kept to compute the curve from, never to be spoken of.
"""


class Data(NamedTuple):
    """What the density is computed from; c curves, r rows, b bases, k rungs, m graded curves.

    Attributes:
        octaves: log2(1 / budget), shape (c, k).
        base, task, policy: of a curve, shape (c,); bases, tasks, policies: how many there are.
        length: standardised log of the prompts' length, shape (c,); all 0 where there is one.
        first: a curve's rows are first[c]:first[c + 1].
        control, outcome, times: `curves.Counts`; `times` is its count.
        asked, right: by base, shape (b,).
        graded: a curve's row in `loss` and `whitener`, or -1, shape (c,).
        loss, whitener: `curves.Moments`, the losses as artanh.
    """

    octaves: Floats
    base: NDArray[np.intp]
    task: NDArray[np.intp]
    policy: NDArray[np.intp]
    bases: int
    tasks: int
    policies: int
    length: Floats
    first: NDArray[np.intp]
    control: NDArray[np.bool_]
    outcome: NDArray[np.int8]
    times: Floats
    asked: Floats
    right: Floats
    graded: NDArray[np.intp]
    loss: Floats
    whitener: Floats

    @property
    def size(self) -> int:
        """How long the vector is."""
        by_policy, by_curve = 3 * self.policies, 3 * len(self.base)
        return len(GLOBAL) + 3 * self.bases + 2 * self.tasks + by_policy + by_curve


def model(data: Curves) -> Data:
    """The arrays of these curves."""
    keys, curves = data.keys, len(data.keys)
    graded = np.full(curves, -1)
    graded[data.moments.curve] = np.arange(len(data.moments.curve))
    rows = np.bincount(data.counts.curve, minlength=curves)
    return Data(
        octaves=data.octaves,
        base=data.base,
        task=np.array([data.tasks.index(key.task) for key in keys]),
        policy=np.array([data.policies.index(key.policy) for key in keys]),
        bases=len(data.bases),
        tasks=len(data.tasks),
        policies=len(data.policies),
        length=_standardised(np.log(data.lengths)),
        first=np.concatenate([[0], rows.cumsum()]),
        control=data.counts.control,
        outcome=data.counts.outcome,
        times=data.counts.count,
        asked=data.asked,
        right=data.right,
        graded=graded,
        loss=np.arctanh(data.moments.loss),
        whitener=data.moments.whitener,
    )


def _standardised(values: Floats) -> Floats:
    centred: Floats = values - values.mean()
    spread = values.std()
    # One length differs from its own mean by rounding alone, which is no length to learn from.
    return centred / spread if spread > 1e-9 else np.zeros(len(values))
