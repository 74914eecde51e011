"""Where along the budgets quality is lost, per ladder.

The bracket (b_broken, b_safe] is what can be bet on: fixed-sequence testing from both ends, each at
one-sided alpha / 2, so that under a quality that falls with the budget it excludes the true
transition with probability at most alpha (Maurer, Hothorn and Lehmacher 1995; as in Learn then
Test, arXiv:2110.01052). It is not adjusted across ladders; the same walk over corrected verdicts
is, and is what a report says. The monotone fit, its interval and the drop rule beside it describe;
they guarantee nothing.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from pytest_kvbench.analyse.cell import CellResult
from pytest_kvbench.analyse.cells import Verdict
from pytest_kvbench.analyse.ladder import CellPairs, Ladder, ladder_of, over_bins
from pytest_kvbench.analyse.monotone import NEVER, crossing, isotonic
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.shape import Rungs, Words, shape_of
from pytest_kvbench.cellkey import ALL_BINS, CellKey, ChainKey
from pytest_kvbench.rows import TransitionRow

_ROUNDING = 1e-9

Results = Mapping[CellKey, CellResult]
Corrected = Mapping[CellKey, Verdict]
Steps = Sequence[tuple[float, CellResult]]


def transitions(
    cells: Mapping[CellKey, CellPairs],
    results: Results,
    pooled: Results,
    verdicts: Corrected,
    rules: Rules,
) -> list[TransitionRow]:
    """One row per ladder of a bin; then one per task, variant and policy over all bins.

    Args:
        cells: the pairs of every cell.
        results: their results at the rules' margin and alpha.
        pooled: the results over bins.
        verdicts: the corrected verdicts of both.
        rules: margin, alpha, drop threshold, seed.
    """
    chains = by_chain(results)
    rungs = {chain: measured(chain, steps, cells) for chain, steps in chains.items()}
    ladders = {
        chain: ladder_of(found, seed=[rules.seed, zlib.crc32(repr(tuple(chain)).encode())])
        for chain, found in rungs.items()
        if found
    }
    rows = [
        transition_row(chain, steps, verdicts, ladders.get(chain), [rungs[chain]], rules)
        for chain, steps in chains.items()
    ]
    for chain, steps in by_chain(pooled).items():
        bins = [c for c in ladders if c._replace(bin=ALL_BINS) == chain]
        ladder = over_bins([ladders[c] for c in bins])
        under = [rungs[c] for c in bins]
        rows.append(transition_row(chain, steps, verdicts, ladder, under, rules))
    return rows


def by_chain(results: Results) -> dict[ChainKey, Steps]:
    """The cells below budget 1 by ladder, budgets ascending."""
    chains: dict[ChainKey, list[tuple[float, CellResult]]] = {}
    for key in sorted((k for k in results if k.budget < 1), key=lambda k: k.budget):
        chains.setdefault(key.chain, []).append((key.budget, results[key]))
    return dict(chains)


def measured(chain: ChainKey, steps: Steps, cells: Mapping[CellKey, CellPairs]) -> Rungs:
    """The budgets of a ladder that were measured, with their pairs."""
    return [
        (budget, cells[chain.rung(budget)])
        for budget, result in steps
        if result.verdict != "not-measured"
    ]


def transition_row(
    chain: ChainKey,
    steps: Steps,
    verdicts: Corrected,
    ladder: Ladder | None,
    bins: Sequence[Rungs],
    rules: Rules,
) -> TransitionRow:
    """A ladder's row as `summary.json` has it.

    Args:
        chain: which ladder.
        steps: (budget, result) ascending, those not measured included.
        verdicts: the corrected verdicts.
        ladder: the measured curve, None where nothing was measured.
        bins: the pairs behind the ladder, per bin.
        rules: margin, alpha, drop threshold.
    """
    alone: Words = [(budget, result.verdict) for budget, result in steps]
    corrected: Words = [(b, verdicts[chain.rung(b)].corrected) for b, _ in steps]
    b_broken, b_safe = bracket(alone)
    broken_adjusted, safe_adjusted = bracket(corrected)
    estimate, limits = crossing_estimate(ladder, rules) if ladder else (None, None)
    return {
        **chain.columns(),
        "b_safe": b_safe,
        "b_broken": b_broken,
        "b_safe_adjusted": safe_adjusted,
        "b_broken_adjusted": broken_adjusted,
        "estimate": estimate,
        "estimate_ci": limits,
        "estimate_between": rungs_around(estimate, ladder) if ladder else None,
        "rule_budget": rule_budget(steps, rules.drop_threshold),
        "shape": shape_of(corrected, ladder, bins, rules),
    }


def bracket(steps: Words) -> tuple[float | None, float | None]:
    """(b_broken, b_safe) of verdicts at one-sided alpha / 2, budgets ascending.

    The first cell that does not hold ends the walk from above, also when it was not measured; the
    first that does not break ends the walk from below.
    """
    broken = list(itertools.takewhile(lambda step: step[1] == "breaks", steps))
    safe = list(itertools.takewhile(lambda step: step[1] == "holds", reversed(steps)))
    return broken[-1][0] if broken else None, safe[-1][0] if safe else None


def rule_budget(steps: Steps, threshold: float) -> float | None:
    """The first budget, from the top, whose mean is `threshold` or more below the next larger's."""
    known = [(budget, result) for budget, result in reversed(steps) if result.n]
    if not known:
        return None
    means = [known[0][1].control_mean, *(result.treated_mean for _, result in known)]
    for (budget, _), above, mean in zip(known, means, means[1:], strict=False):
        if above is not None and mean is not None and above - mean >= threshold - 1e-12:
            return budget
    return None


def crossing_estimate(
    ladder: Ladder, rules: Rules
) -> tuple[float | None, list[float | None] | None]:
    """Where the monotone fit loses the margin, with a 1 - alpha interval by resampled clusters.

    None for "not within this ladder": below its smallest budget, for the estimate and either limit.
    The interval ends at measured budgets: nothing that was asked tells places between them apart.
    """
    at = [
        crossing(isotonic(curves), ladder.budgets, rules.margin)
        for curves in (ladder.seen[None, :], ladder.high, ladder.low)
    ]
    estimate = _reached(at[0][0])
    low = _reached(np.quantile(at[1], rules.alpha / 2, method="lower"))
    high = _reached(np.quantile(at[2], 1 - rules.alpha / 2, method="higher"))
    return estimate, None if high is None else _outward(low, high, ladder)


def _outward(low: float | None, high: float, ladder: Ladder) -> list[float | None]:
    """An interval widened to the nearest measured budgets around it."""
    rungs = [*map(float, ladder.budgets), 1.0]
    under = None if low is None else max(rung for rung in rungs if rung <= low + _ROUNDING)
    return [under, min((rung for rung in rungs if rung >= high - _ROUNDING), default=1.0)]


def rungs_around(estimate: float | None, ladder: Ladder) -> list[float] | None:
    """The measured budgets that a point of the fit lies between: nothing between was asked."""
    if estimate is None:
        return None
    rungs = [*map(float, ladder.budgets), 1.0]
    last = len(rungs) - 1  # a rounding error above the control at 1
    above = next((i for i, rung in enumerate(rungs) if i and estimate <= rung), last)
    return rungs[above - 1 : above + 1]


def _reached(budget: float) -> float | None:
    return None if budget == NEVER else float(budget)
