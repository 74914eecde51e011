"""A posterior of curves, checked: what is monotone, what converged, what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_kvbench.posterior.check import (
    MISFIT,
    Diagnostics,
    diagnosed,
    misfit,
    recovery,
    sensitivity,
)
from pytest_kvbench.posterior.curves import CurveKey, Pairs, curves
from pytest_kvbench.posterior.draws import Sampling, sample
from pytest_kvbench.posterior.statements import (
    Comparison,
    Posterior,
    Statement,
    comparisons,
    statements,
)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A posterior, what it says, and what was left out of it.

    Attributes:
        posterior, diagnostics: None where no curve is left.
        not_monotone: curves whose loss falls by more from one budget to a smaller one than chance
            lets it, by how likely that is. They have no transition; in a fit they would pull
            those of their policy after them, and no sampler mixes.
        prior_sensitivity: `check.sensitivity`; None where nothing is said.
        problems: why nothing is said; `statements` and `comparisons` are empty then.
    """

    posterior: Posterior | None
    diagnostics: Diagnostics | None
    not_monotone: Mapping[CurveKey, float]
    problems: tuple[str, ...]
    statements: tuple[Statement, ...]
    comparisons: tuple[Comparison, ...]
    prior_sensitivity: float | None = None


def fit(pairs: Sequence[Pairs], how: Sampling, margin: float, *, progress: bool = False) -> Fitted:
    """Set apart what is not monotone, fit the rest, and say what may be said.

    Args:
        pairs: a curve each, at least one.
        margin: the loss one can live with, in score.

    Returns:
        The same for the same pairs in any order, with the same settings, versions and processor.

    Raises:
        MissingPrerequisiteError: the extra `bayes` is not installed.
    """
    apart = not_monotone(pairs, how.seed)
    left = [p for p in pairs if p.key not in apart]
    if not left:
        return Fitted(None, None, apart, ("no curve is monotone",), (), ())
    data = curves(left)
    trace = sample(data, how, progress=progress)
    posterior = Posterior(data, trace, misfit(data, trace, how.seed))
    diagnostics = diagnosed(trace)
    if diagnostics.problems:
        return Fitted(posterior, diagnostics, apart, diagnostics.problems, (), ())
    said = tuple(statements(posterior, margin)), tuple(comparisons(posterior, margin))
    return Fitted(posterior, diagnostics, apart, (), *said, sensitivity(trace, margin))


def not_monotone(pairs: Sequence[Pairs], seed: int) -> dict[CurveKey, float]:
    """The curves that are not, by how likely that is; one set in twenty names any by chance."""
    ordered = sorted(pairs, key=lambda p: (p.key.policy, p.key.base))
    rng = np.random.default_rng(seed)
    unlikely = np.array([recovery(p, rng) for p in ordered])
    ranked = np.argsort(unlikely)
    bounds = MISFIT / (len(unlikely) - np.arange(len(unlikely)))
    rejected = ranked[np.cumprod(unlikely[ranked] < bounds).astype(bool)]
    return {ordered[at].key: float(unlikely[at]) for at in sorted(rejected)}
