"""What must hold before a posterior says anything: its sampler converged, its curve fits.

Both checks of a curve look at its largest recovery: by how much the loss falls from a budget to a
smaller one, at most. Before the fit it is compared with that of resampled pairs around the nearest
curve that never recovers; after it, with that of pairs simulated from the posterior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from pytest_kvbench.posterior.curves import MISSING, Curves, Pairs
from pytest_kvbench.posterior.draws import flat
from pytest_kvbench.posterior.shape import share_broken

if TYPE_CHECKING:
    import arviz as az

R_HAT = 1.01
ESS = 400
DIVERGENT = 0.005
MISFIT = 0.05
"""A curve whose recovery is rarer than this under its own model is not monotone."""

POWERS = (0.8, 1.25)
"""How much less and more a prior counts when its weight is tried (Kallioinen et al. 2023)."""

TINY_FALL = 1e-9
REPLICATES = 4000


@dataclass(frozen=True)
class Diagnostics:
    """Of the losses at the ladders' budgets, which are what is spoken of.

    Attributes:
        r_hat: the largest (Vehtari et al. 2021, rank-normalised and split).
        ess_bulk, ess_tail: the smallest.
        divergent: share of draws; 0 for a sampler that has none.
    """

    r_hat: float
    ess_bulk: float
    ess_tail: float
    divergent: float

    @property
    def problems(self) -> tuple[str, ...]:
        """Every bound that is missed, in words; none where the draws may be believed."""
        found = (  # a figure that could not be had (NaN) misses its bound
            (not self.r_hat < R_HAT, f"R-hat {self.r_hat:.3f}, wanted below {R_HAT:g}"),
            (not self.ess_bulk > ESS, f"bulk ESS {self.ess_bulk:.0f}, wanted above {ESS}"),
            (not self.ess_tail > ESS, f"tail ESS {self.ess_tail:.0f}, wanted above {ESS}"),
            (
                self.divergent >= DIVERGENT,
                f"{self.divergent:.1%} of draws diverge, wanted below {DIVERGENT:.1%}",
            ),
        )
        return tuple(words for is_missed, words in found if is_missed)


def diagnosed(trace: az.InferenceData) -> Diagnostics:
    """The diagnostics of `loss`."""
    import arviz as az

    table = az.summary(trace, var_names=["loss"], kind="diagnostics", round_to="none")
    sampled: Any = getattr(trace, "sample_stats", {})
    divergent = float(sampled["diverging"].mean()) if "diverging" in sampled else 0.0
    return Diagnostics(
        float(table["r_hat"].max()),
        float(table["ess_bulk"].min()),
        float(table["ess_tail"].min()),
        divergent,
    )


def sensitivity(trace: az.InferenceData, margin: float) -> float:
    """By how much P(loss < margin) moves at most, at any rung, if the priors count less or more.

    The draws are weighted by a power of the prior of what all curves share.
    """
    below, prior = flat(trace, "loss") < margin, flat(trace, "log_prior")
    moved = []
    for power in POWERS:
        weight = np.exp((power - 1) * prior - ((power - 1) * prior).max())
        moved.append(np.abs(np.average(below, axis=0, weights=weight) - below.mean(axis=0)).max())
    return float(max(moved))


def recovery(p: Pairs, rng: np.random.Generator) -> float:
    """How likely the largest recovery of a curve is if its loss never falls.

    Clusters of pairs are resampled around the isotonic regression of the losses.
    """
    each = p.control[:, None] - p.treated
    some = ~np.isnan(each).all(axis=0)
    each = each[:, some]
    if each.shape[1] < 2:
        return 1.0
    mean = np.nanmean(each, axis=0)
    sure = (~np.isnan(each)).sum(axis=0)
    nearest = isotonic_regression(mean, weights=sure.astype(float)).x
    residual = np.nan_to_num(each - mean)
    _, code = np.unique(p.cluster, return_inverse=True)
    sums = np.column_stack([np.bincount(code, weights=column) for column in residual.T])
    kinds, times = np.unique(sums, axis=0, return_counts=True)
    drawn = rng.multinomial(len(sums), times / len(sums), REPLICATES)
    again = nearest + drawn @ kinds / sure
    return float((_largest_fall(again) >= _largest_fall(mean[None]) - TINY_FALL).mean())


def misfit(data: Curves, trace: az.InferenceData, seed: int) -> NDArray[np.float64]:
    """By curve, how likely a recovery at least as large is under the model; shape (c,).

    Curves of graded scores and of fewer than two budgets are not checked: 1.
    """
    rng = np.random.default_rng(seed)
    checked = np.ones(len(data.keys))
    for curve in np.unique(data.counts.curve):
        if len(data.ladders[curve]) > 1:
            checked[curve] = _recovery(data, trace, int(curve), rng)
    return checked


def _recovery(data: Curves, trace: az.InferenceData, curve: int, rng: np.random.Generator) -> float:
    rungs = len(data.ladders[curve])
    own = data.counts.curve == curve
    control, count = data.counts.control[own], data.counts.count[own]
    outcome = data.counts.outcome[own][:, :rungs]
    there = outcome != MISSING
    worse = (control[:, None].astype(int) - outcome) * there
    seen = (worse * count[:, None]).sum(axis=0) / (count[:, None] * there).sum(axis=0).clip(1)
    asked = np.rint([count[~control].sum(), count[control].sum()]).astype(int)
    drawn = _simulated(data, trace, curve, asked, rng) / max(1, asked.sum())
    return float((_largest_fall(drawn) >= _largest_fall(seen[None]) - TINY_FALL).mean())


def _largest_fall(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a loss falls from a budget to any smaller one, at most; shape (draws,)."""
    falls: NDArray[np.float64] = (np.maximum.accumulate(losses, axis=1) - losses).max(axis=1)
    return falls


def _simulated(
    data: Curves,
    trace: az.InferenceData,
    curve: int,
    asked: NDArray[np.intp],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Net losses of simulated pairs, shape (replicates, k).

    Args:
        asked: how many pairs have a wrong control, and how many a right one.
    """
    size = len(flat(trace, "persistence"))
    picked = rng.choice(size, min(REPLICATES, size), replace=False)
    base, task = data.base[curve], data.tasks.index(data.keys[curve].task)
    rho, luck = flat(trace, "persistence")[picked], flat(trace, "luck")[picked, task]
    flips = [flat(trace, name)[picked, base] for name in ("gained", "lost")]
    location, scale, depth = (
        flat(trace, name)[picked, curve, None] for name in ("location", "scale", "depth")
    )
    shares = share_broken(data.octaves[curve, : len(data.ladders[curve])], location, scale, depth)
    net = np.zeros(shares.shape)
    for is_right, (number, flip) in enumerate(zip(asked, flips, strict=True)):
        own = rng.binomial(number, rho)  # these have a budget of their own, the others none
        broken_so_far, before = np.zeros(len(picked), int), np.zeros(len(picked))
        for rung, share in enumerate(shares.T):
            breaks = np.clip((share - before) / np.maximum(1 - before, 1e-12), 0, 1)
            broken_so_far += rng.binomial(own - broken_so_far, breaks)
            broken = broken_so_far + rng.binomial(number - own, share.clip(0, 1))
            lucky, flipped = rng.binomial(broken, luck), rng.binomial(number - broken, flip)
            net[:, rung] += broken - lucky + flipped if is_right else -(lucky + flipped)
            before = share
    return net
