"""Do the verdicts keep their error rates? Simulations that print tables and fail where they do not.

    python tests/benchmarks/calibration.py [--quick] [--seed N] [--only intervals verdicts ...]

Every table names its target. Data are drawn here, from the stated truths; the methods are the
package's own, and the bootstraps that others use stand beside them. Exit code 1: a target missed.
"""

from __future__ import annotations

import argparse
import functools
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtr

from pytest_kvbench.analyse.alike import Agreement
from pytest_kvbench.analyse.binary import BinaryPairs, restricted_rates
from pytest_kvbench.analyse.cell import checked, evidence_of, verdict_of
from pytest_kvbench.analyse.cells import corrected_verdicts
from pytest_kvbench.analyse.contexts import ContextPairs
from pytest_kvbench.analyse.evidence import Evidence, interval, p_breaks, p_holds
from pytest_kvbench.analyse.judge import judge_pairs
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled, over_bins
from pytest_kvbench.analyse.power import trinomial
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.sequential import Drawn, Limits, Rung, advance, start
from pytest_kvbench.analyse.strata import StratifiedPairs
from pytest_kvbench.analyse.transitions import bracket
from pytest_kvbench.analyse.unpaired import Sample, two_samples

ALPHA = 0.05
SIZES = (13, 24, 50, 100, 200)
LOSSES = (0.02, 0.05, 0.15, 0.40)
BUDGETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)

Random = np.random.Generator
Draw = Callable[[Random, int, float], Pairs]


@dataclass(frozen=True)
class Scale:
    """How much is simulated: experiments a row."""

    intervals: int
    levels: int
    experiments: int
    ladders: int


FULL, QUICK = Scale(400, 1_000, 400, 500), Scale(200, 200, 100, 60)


@dataclass(frozen=True)
class Check:
    """A measured share and the bound it must keep; simulation noise of three errors is allowed."""

    name: str
    share: float
    bound: float
    runs: int
    at_least: bool

    @property
    def missed(self) -> bool:
        noise = 3 * (self.bound * (1 - self.bound) / self.runs) ** 0.5
        return self.share < self.bound - noise if self.at_least else self.share > self.bound + noise


# -- data with a known truth ---------------------------------------------------------------------


def binary(random: Random, n: int, loss: float, gain: float = 0.0) -> Pairs:
    """Right or wrong; `loss` of the examples are lost and `gain` won."""
    draw = random.random(n)
    lost, won = draw < loss, draw > 1 - gain
    return Pairs(1.0 - won, 1.0 - lost, np.arange(n))


def lost_parts(random: Random, n: int, loss: float) -> Pairs:
    """`loss` of the examples lose 0.3 to 1; all others are unchanged."""
    lost = (random.random(n) < loss) * random.uniform(0.3, 1, n)
    return Pairs(np.ones(n), 1 - lost, np.arange(n))


def jitter(random: Random, n: int, loss: float) -> Pairs:
    """Every example moves a little; `loss` of them fall by 0.5 to 0.8."""
    control = random.uniform(0.85, 0.9, n)
    noise = random.uniform(-0.08, 0.08, n)
    lost = random.random(n) < loss
    treated = np.where(lost, control - random.uniform(0.5, 0.8, n), control + noise)
    return Pairs(control, treated, np.arange(n))


def redraw(random: Random, n: int, loss: float) -> Pairs:
    """Two noisy scores of one example; the treated one keeps 1 - `loss` of it."""
    level = random.uniform(0.2, 0.8, n)
    control, treated = (random.beta(8 * level, 8 * (1 - level)) for _ in range(2))
    return Pairs(control, (1 - loss) * treated, np.arange(n))


def clustered(random: Random, n: int, loss: float, share: float) -> Pairs:
    """Right or wrong in clusters of five, with intra-cluster correlation `share`."""
    ids = np.arange(n) // 5
    if share == 0:
        rate = np.full(n // 5, loss)
    elif share == 1:
        rate = (random.random(n // 5) < loss) * 1.0
    else:
        spread = (1 - share) / share
        rate = random.beta(loss * spread, (1 - loss) * spread, n // 5)
    return Pairs(np.ones(n), 1.0 - (random.random(n) < rate[ids]), ids)


def clustered_jitter(random: Random, n: int, loss: float) -> Pairs:
    """Continuous scores in clusters of five that fall together."""
    ids = np.arange(n) // 5
    moved = jitter(random, n // 5, loss)
    noise = random.uniform(-0.02, 0.02, n)
    return Pairs(moved.control[ids], moved.treated[ids] + noise, ids)


TRUTH: dict[str, Callable[[float], float]] = {
    "lost_parts": lambda loss: -0.65 * loss,
    "jitter": lambda loss: -0.65 * loss,
    "redraw": lambda loss: -0.5 * loss,
    "clustered_jitter": lambda loss: -0.65 * loss,
}


# -- the methods ---------------------------------------------------------------------------------


@functools.cache
def _binary_interval(losses: int, gains: int, n: int) -> tuple[float, float]:
    return interval(BinaryPairs(losses, gains, n), ALPHA)


@functools.cache
def _contexts_interval(kinds: bytes, counts: bytes) -> tuple[float, float]:
    return interval(_contexts_of(kinds, counts), ALPHA)


def _contexts_of(kinds: bytes, counts: bytes) -> ContextPairs:
    return ContextPairs(np.frombuffer(kinds, dtype=int).reshape(-1, 3), np.frombuffer(counts))


def ours(pairs: Pairs) -> tuple[float, float]:
    """The interval that `judge_cell` reports."""
    evidence = evidence_of(pairs.control, pairs.treated, pairs.clusters)
    if isinstance(evidence, BinaryPairs):
        return _binary_interval(evidence.losses, evidence.gains, evidence.n)
    if isinstance(evidence, ContextPairs):
        return _contexts_interval(evidence.kinds.tobytes(), evidence.counts.tobytes())
    return interval(evidence, ALPHA)


@functools.cache
def _counts(clusters: int) -> np.ndarray:
    random = np.random.default_rng(clusters)
    return random.multinomial(clusters, np.full(clusters, 1 / clusters), size=1_000).astype(float)


def bootstraps(pairs: Pairs) -> tuple[tuple[float, float], tuple[float, float]]:
    """Percentile and studentised bootstrap of the means of equal clusters, 1,000 replicates."""
    means = np.bincount(pairs.clusters, pairs.treated - pairs.control) / np.bincount(pairs.clusters)
    weights, k, seen = _counts(len(means)) / len(means), len(means), means.mean()
    replicates = weights @ means
    error = np.sqrt(np.maximum(weights @ means**2 - replicates**2, 0) / k)
    percentile = tuple(np.quantile(replicates, [ALPHA / 2, 1 - ALPHA / 2]))
    spread = means.std(ddof=1) / k**0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((replicates - seen) / error, nan=0.0, posinf=1e9, neginf=-1e9)
    low, high = np.quantile(t, [ALPHA / 2, 1 - ALPHA / 2], method="nearest")
    return percentile, (max(-1.0, seen - high * spread), min(1.0, seen - low * spread))


# -- coverage ------------------------------------------------------------------------------------


def intervals(random: Random, scale: Scale) -> Iterable[Check]:
    """Coverage of 95% intervals: >= 93% binary, >= 92% continuous and clustered."""
    print("\n## Coverage of 95% intervals\n")
    print(
        "| data | loss | n | here | studentised bootstrap | percentile bootstrap | median width |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, draw, truth, bound, sizes in _settings():
        for loss in LOSSES:
            for n in sizes:
                yield _coverage(random, name, draw, truth, bound, loss, n, scale.intervals)


def _settings() -> Iterable[tuple[str, Draw, Callable[[float], float], float, Sequence[int]]]:
    yield "binary", binary, lambda loss: -loss, 0.93, SIZES
    noisy = functools.partial(binary, gain=0.05)
    yield "binary, 5% gains", noisy, lambda loss: 0.05 - loss, 0.93, SIZES
    for draw in (lost_parts, jitter, redraw):
        yield draw.__name__, draw, TRUTH[draw.__name__], 0.92, SIZES
    for share in (0.0, 0.3, 1.0):
        together = functools.partial(clustered, share=share)
        yield f"clusters of 5, ICC {share:g}", together, lambda loss: -loss, 0.92, (100, 200)
    yield "clusters of 5, jitter", clustered_jitter, TRUTH["clustered_jitter"], 0.92, (100, 200)


def _coverage(
    random: Random,
    name: str,
    draw: Draw,
    truth: Callable[[float], float],
    bound: float,
    loss: float,
    n: int,
    runs: int,
) -> Check:
    covered, widths = np.zeros(3), []
    for _ in range(runs):
        pairs = draw(random, n, loss)
        mine, (percentile, studentised) = ours(pairs), bootstraps(pairs)
        covered += [low <= truth(loss) <= high for low, high in (mine, studentised, percentile)]
        widths.append(mine[1] - mine[0])
    here, student, percentile_share = covered / runs
    print(
        f"| {name} | {loss:.0%} | {n} | {here:.3f} | {student:.3f} | {percentile_share:.3f} "
        f"| {np.median(widths):.3f} |",
        flush=True,
    )
    return Check(f"coverage {name} loss {loss} n {n}", here, bound, runs, at_least=True)


POOLED = (
    ("rare in every bin", (0.02,) * 5, (25,) * 5),
    ("rare in one bin", (0.0, 0.0, 0.0, 0.0, 0.1), (25,) * 5),
    ("rare in a small bin", (0.3, 0.0, 0.0, 0.0, 0.0), (10, 10, 20, 40, 60)),
    ("steep", (0.0, 0.0, 0.3, 0.6, 0.9), (13,) * 5),
    ("steep", (0.0, 0.0, 0.3, 0.6, 0.9), (50,) * 5),
)


def pooled(random: Random, scale: Scale) -> Iterable[Check]:
    """Coverage of the mean of five bins: >= 93%."""
    print("\n## Coverage of 95% intervals over five bins\n")
    print("| losses by bin | n by bin | coverage | median width |\n|---|---|---|---|")
    for name, losses, sizes in POOLED:
        truth, found = -float(np.mean(losses)), []
        for _ in range(scale.experiments):
            bins = [binary(random, n, loss) for n, loss in zip(sizes, losses, strict=True)]
            result = judge_pooled(bins, margin=0.10, alpha=ALPHA)
            found.append((result.ci_low <= truth <= result.ci_high, result.ci_high - result.ci_low))
        share, width = np.mean([f[0] for f in found]), np.median([f[1] for f in found])
        print(f"| {name} | {sizes} | {share:.3f} | {width:.3f} |", flush=True)
        yield Check(f"pooled {name} {sizes}", float(share), 0.93, len(found), at_least=True)


# -- shapes of plans -----------------------------------------------------------------------------


def contexts(
    random: Random, count: int, size: int, loss: float, gain: float, share: float
) -> Pairs:
    """Contexts of `size`, whose rates vary so that their pairs are correlated by `share`."""
    rates = np.array([loss, gain, 1 - loss - gain])
    if share == 1:
        own = np.eye(3)[random.choice(3, count, p=rates)]
    elif share == 0:
        own = np.tile(rates, (count, 1))
    else:
        drawn = random.gamma(np.maximum(rates, 1e-9) * (1 - share) / share, size=(count, 3))
        own = drawn / drawn.sum(axis=1, keepdims=True)
    ids = np.repeat(np.arange(count), size)
    draw = random.random(count * size)
    lost, won = draw < own[ids, 0], draw > 1 - own[ids, 1]
    return Pairs(1.0 - won, 1.0 - lost, ids)


def of_two_kinds(random: Random, count: int) -> Pairs:
    """Contexts of five: one in ten is lost whole, the others lose and gain 5% at random."""
    whole = random.random(count) < 0.10
    spread = contexts(random, count, 5, 0.05, 0.05, 0)
    lost = whole[spread.clusters]
    return replace(
        spread, control=np.where(lost, 1, spread.control), treated=np.where(lost, 0, spread.treated)
    )


def growing(random: Random, count: int, whole: bool) -> Pairs:
    """Contexts of 1 to 10 examples; the larger, the more is lost: 0.10 of all examples."""
    sizes = random.integers(1, 11, count)
    ids = np.repeat(np.arange(count), sizes)
    draw = random.random(count)[ids] if whole else random.random(len(ids))
    return Pairs(np.ones(len(ids)), (draw >= 0.10 * 55 / 385 * sizes[ids]) * 1.0, ids)


def heavy(random: Random, count: int) -> list[Pairs]:
    """Four bins of 40 single examples that lose nothing; one of `count` contexts of 20."""
    return [*(binary(random, 40, 0.0) for _ in range(4)), contexts(random, count, 20, 0.5, 0, 1)]


Bins = Callable[[Random], list[Pairs]]


def _bins(sizes: Sequence[int], losses: Sequence[float], gain: float = 0.0) -> Bins:
    return lambda r: [binary(r, n, loss, gain) for n, loss in zip(sizes, losses, strict=True)]


def _at_margin() -> Iterable[tuple[str, Bins]]:
    """Plans that lose 0.10, each in a way of its own."""
    last = (0, 0, 0, 0, 0.5)
    yield "bins of 50, 50, 50, 50, 2, all in the last", _bins((50, 50, 50, 50, 2), last)
    yield "the same, some everywhere", _bins((50, 50, 50, 50, 2), (0.05,) * 4 + (0.3,))
    yield "bins of 60, 30, 4, all in the last", _bins((60, 30, 4), (0, 0, 0.3))
    yield "the same, 5% gains", _bins((60, 30, 4), (0.06, 0.06, 0.33), 0.05)
    yield "bins of 100, 50, 20, 10, 5, 5% gains", _bins((100, 50, 20, 10, 5), (0.15,) * 5, 0.05)
    yield "20 bins of 2, 5% gains", _bins((2,) * 20, (0.15,) * 20, 0.05)
    yield "5 bins of 5", _bins((5,) * 5, (0.1,) * 5)
    yield "5 bins of 20, 5% gains", _bins((20,) * 5, (0.15,) * 5, 0.05)
    yield "4 bins of 40 and one of 2 contexts of 20", lambda r: heavy(r, 2)
    yield "4 bins of 40 and one of 1 context of 20", lambda r: heavy(r, 1)
    for count in (20, 40, 80):
        for whole in (False, True):
            name = f"{count} contexts of 1 to 10, loss by size{', whole' if whole else ''}"
            yield name, lambda r, c=count, w=whole: [growing(r, c, w)]
    for count in (8, 20, 50, 200):
        for share in (0.0, 0.1, 0.3, 1.0):
            for gain in (0.0, 0.05):
                name = f"{count} contexts of 5, ICC {share:g}, gains {gain:g}"
                draw = functools.partial(
                    contexts, count=count, size=5, loss=0.10 + gain, gain=gain, share=share
                )
                yield name, lambda r, d=draw: [d(r)]
    for count in (50, 100, 200):
        yield f"{count} contexts of 5, one in ten whole", lambda r, c=count: [of_two_kinds(r, c)]


def _powers() -> Iterable[tuple[str, str, float, Bins]]:
    """What must be decided, how, and how often at least."""
    twenty = functools.partial(contexts, count=20, size=5)
    yield "5 bins of 5, loss 0.4", "breaks", 0.78, _bins((5,) * 5, (0.4,) * 5)
    yield "5 bins of 20, 2% flips", "holds", 0.95, _bins((20,) * 5, (0.02,) * 5, 0.02)
    spread = functools.partial(twenty, loss=0.05, gain=0.05, share=0)
    yield "20 contexts of 5, ICC 0, 5% flips", "holds", 0.70, lambda r: [spread(r)]
    shared = functools.partial(twenty, loss=0.4, gain=0.05, share=0.3)
    yield "20 contexts of 5, ICC 0.3, loss 0.4", "breaks", 0.70, lambda r: [shared(r)]


def shapes(random: Random, scale: Scale) -> Iterable[Check]:
    """Unequal bins, and contexts, at a loss of the margin: <= 2.5% either way; what they decide."""
    print("\n## A loss of exactly the margin, 0.10, one verdict at one-sided 0.025\n")
    print("| plan | false holds | false breaks | coverage of 95% |\n|---|---|---|---|")
    for name, draw in _at_margin():
        found = [_judged(draw(random)) for _ in range(2 * scale.levels)]
        holds, breaks = (float(np.mean([w == word for w in found])) for word in WORDS)
        print(f"| {name} | {holds:.3f} | {breaks:.3f} | {1 - holds - breaks:.3f} |", flush=True)
        yield Check(f"false holds, {name}", holds, 0.025, len(found), at_least=False)
        yield Check(f"false breaks, {name}", breaks, 0.025, len(found), at_least=False)
        covered = 1 - holds - breaks
        yield Check(f"coverage, {name}", covered, 0.95, len(found), at_least=True)
    print("\n| plan | verdict | how often |\n|---|---|---|")
    for name, word, least, draw in _powers():
        share = float(np.mean([_judged(draw(random)) == word for _ in range(scale.levels)]))
        print(f"| {name} | {word} | {share:.3f} |", flush=True)
        yield Check(f"power, {name}", share, least, scale.levels, at_least=True)


WORDS = ("holds", "breaks")


def _judged(bins: Sequence[Pairs]) -> str:
    strata = [checked(b.control, b.treated, b.clusters) for b in bins]
    evidence = over_bins(strata)
    if isinstance(evidence, BinaryPairs):
        p = _binary_p(evidence.losses, evidence.gains, evidence.n, 0.10)
        return verdict_of(p.p_holds, p.p_breaks, ALPHA)
    if isinstance(evidence, ContextPairs):
        return _word_of_contexts(evidence.kinds.tobytes(), evidence.counts.tobytes())
    if isinstance(evidence, StratifiedPairs):
        parts = sorted(zip(evidence.strata, evidence.shares, strict=True), key=repr)
        return _word_of_strata(*(tuple(column) for column in zip(*parts, strict=True)))
    return _word_of(evidence)


@functools.cache
def _word_of_contexts(kinds: bytes, counts: bytes) -> str:
    return _word_of(_contexts_of(kinds, counts))


@functools.cache
def _word_of_strata(strata: tuple[BinaryPairs, ...], shares: tuple[int, ...]) -> str:
    return _word_of(StratifiedPairs(strata, shares))


def _word_of(evidence: Evidence) -> str:
    return verdict_of(p_holds(evidence, 0.10), p_breaks(evidence, 0.10), ALPHA)


# -- two sides over different examples -----------------------------------------------------------

SIDES = (
    *((10, 50, 5, right) for right in (0.98, 0.9, 0.5)),
    *((10, 5, 50, 0.98), (1, 50, 5, 0.98), (5, 20, 20, 0.9), (3, 50, 20, 0.8)),
)


def unpaired(random: Random, scale: Scale) -> Iterable[Check]:
    """Nothing changed between samples of unequal size, over bins: <= 2.5% either way."""
    print("\n## Unpaired comparisons, nothing changed, one-sided 0.025\n")
    print("| bins | before | now | right | worse | better |\n|---|---|---|---|---|---|")
    for bins, before, now, right in SIDES:
        wrong = np.zeros(2)
        for _ in range(scale.levels):
            pairs = [tuple(_sample(random, n, right) for n in (before, now)) for _ in range(bins)]
            found = two_samples(pairs)
            wrong += [p_breaks(found, 0.0) < ALPHA / 2, p_holds(found, 0.0) < ALPHA / 2]
        worse, better = (float(share) for share in wrong / scale.levels)
        print(f"| {bins} | {before} | {now} | {right} | {worse:.3f} | {better:.3f} |", flush=True)
        what = f"{bins} bins, {before} against {now}, {right}"
        yield Check(f"worse, {what}", worse, 0.025, scale.levels, at_least=False)
        yield Check(f"better, {what}", better, 0.025, scale.levels, at_least=False)


def _sample(random: Random, n: int, right: float) -> Sample:
    return Sample((random.random(n) < right) * 1.0, np.arange(n))


# -- losses that come as failures ----------------------------------------------------------------


def failures(random: Random, scale: Scale) -> Iterable[Check]:
    """A loss of the margin, half of it as failed requests, within `max_lost`: holds <= 2.5%."""
    print("\n## A loss of 0.10, half of it by failures, up to 5% of pairs lost\n")
    print("| n | holds | of the answers alone |\n|---|---|---|")
    for n in (100, 200, 400):
        held = np.zeros(2)
        for _ in range(2 * scale.levels):
            lost, wrong, _ = (int(k) for k in random.multinomial(n, (0.05, 0.05, 0.9)))
            if lost <= 0.05 * n:
                answered, worst = BinaryPairs(wrong, 0, n - lost), BinaryPairs(wrong + lost, 0, n)
                p = [p_holds(evidence, 0.10) for evidence in (answered, worst)]
                held += [max(p) < ALPHA / 2, p[0] < ALPHA / 2]
        with_lost, alone = (float(share) for share in held / (2 * scale.levels))
        print(f"| {n} | {with_lost:.3f} | {alone:.3f} |", flush=True)
        yield Check(f"holds by failures, n {n}", with_lost, 0.025, scale.levels, at_least=False)


# -- the control's own noise -----------------------------------------------------------------------

NOISE, REAL = 0.05, 0.40  # shares of texts that differ: of the control asked again, of a treatment


def noise(random: Random, scale: Scale) -> Iterable[Check]:
    """An arm that is the control again: <= 2.5% either way, and found out; another is spared."""
    print(f"\n## The control again, {NOISE:.0%} of its texts at random; and {REAL:.0%} changed\n")
    print("| plan | worse | better | said to be a placebo | so is a real treatment |")
    print("|---|---|---|---|---|")
    for name, sizes, found_out in (
        ("6 bins of 8", (8,) * 6, 0.9),
        ("one bin of 40", (40,), 0.9),
        ("one bin of 120", (120,), 0.95),
        ("bins of 50, 20, 5", (50, 20, 5), 0.9),
    ):
        seen = np.mean([_noisy(random, sizes) for _ in range(scale.levels)], axis=0)
        worse, better, placebo, spared = map(float, seen)
        print(f"| {name} | {worse:.3f} | {better:.3f} | {placebo:.3f} | {spared:.3f} |", flush=True)
        yield Check(f"noise is worse, {name}", worse, 0.025, scale.levels, at_least=False)
        yield Check(f"noise is better, {name}", better, 0.025, scale.levels, at_least=False)
        yield Check(f"placebo found, {name}", placebo, found_out, scale.levels, at_least=True)
        yield Check(f"real one spared, {name}", spared, 0.05, scale.levels, at_least=False)


def _noisy(random: Random, sizes: Sequence[int]) -> tuple[bool, bool, bool, bool]:
    """Worse and better at margin 0; taken for a placebo, without and with a treatment."""
    pairs, equal, changed, repeated = [], [], [], []
    for n in sizes:
        right = (random.random(n) < CORRECT) * 1.0
        differs = np.array([NOISE, NOISE, NOISE, REAL])[:, None]
        control, again, treated, other = random.random((4, n)) < differs
        fresh = (random.random((2, n)) < CORRECT) * 1.0
        score = [np.where(t, f, right) for t, f in zip((control, treated), fresh, strict=True)]
        pairs.append((*score, np.arange(n)))
        equal.append(~control & ~treated)
        changed.append(~control & ~other)
        repeated.append((~control & ~again) * 1.0)
    evidence, known = over_bins(pairs), np.concatenate(repeated)
    alike = [Agreement.of(np.concatenate(e), known) for e in (equal, changed)]
    placebo = [a.rules_out_a_change and not a.exceeds_noise for a in alike]
    worse, better = p_breaks(evidence, 0.0) < ALPHA / 2, p_holds(evidence, 0.0) < ALPHA / 2
    return worse, better, placebo[0], placebo[1]


# -- binary data without simulation --------------------------------------------------------------


@dataclass(frozen=True)
class Tango(BinaryPairs):
    """The score test as published: the same restricted rates, a normal tail."""

    def p_above(self, delta: float) -> float:
        """Tango (1998)."""
        loss, gain = restricted_rates(self.losses, self.gains, self.n, delta)
        error = max(self.n * (loss + gain - delta**2), 1e-12) ** 0.5
        return float(ndtr((self.n * delta - self.gains + self.losses) / error))

    def mirrored(self) -> Tango:
        """Control and treated swapped."""
        return Tango(self.gains, self.losses, self.n)


def exact(_: Random, scale: Scale) -> Iterable[Check]:
    """Every outcome of n pairs, for 100 losses x 6 gains: worst coverage and one-sided error."""
    print("\n## Binary 95% intervals, all outcomes enumerated\n")
    print("| n | method | least coverage | largest one-sided error |\n|---|---|---|---|")
    for n in (13, 24, 50, 100) if scale is FULL else (13, 24):
        for kind in (BinaryPairs, Tango):
            coverage, error = _worst(n, kind)
            print(f"| {n} | {kind.__name__} | {coverage:.3f} | {error:.3f} |", flush=True)
            if kind is BinaryPairs:
                yield Check(f"enumerated coverage, n {n}", coverage, 0.95, 10**9, at_least=True)
                yield Check(f"enumerated error, n {n}", error, 0.027, 10**9, at_least=False)


def _worst(n: int, kind: type[BinaryPairs]) -> tuple[float, float]:
    most = max(12, 0.24 * n)  # outcomes with more of both have no weight at the rates below
    counts = [(b, c) for b in range(n + 1) for c in range(n + 1 - b) if min(b, c) <= most]
    limits = np.array([interval(kind(b, c, n), ALPHA) for b, c in counts])
    losses, gains = np.array(counts).T
    coverage, error = 1.0, 0.0
    for gain in (0.0, 0.005, 0.02, 0.05, 0.1, 0.15):
        for loss in np.linspace(0.005, 0.5, 100):
            chance = trinomial(n, losses, gains, loss, gain)
            above = float(chance[limits[:, 0] > gain - loss].sum())
            below = float(chance[limits[:, 1] < gain - loss].sum())
            coverage, error = min(coverage, 1 - above - below), max(error, above, below)
    return coverage, error


# -- error rates of verdicts ---------------------------------------------------------------------


@dataclass(frozen=True)
class PValues:
    """The part of a result that a family of cells looks at."""

    p_holds: float
    p_breaks: float


@functools.cache
def _binary_p(losses: int, gains: int, n: int, margin: float) -> PValues:
    evidence = BinaryPairs(losses, gains, n)
    return PValues(p_holds(evidence, margin), p_breaks(evidence, margin))


def p_values(pairs: Pairs, margin: float) -> PValues:
    """Both p-values of a cell, remembered where data are counts."""
    evidence = evidence_of(pairs.control, pairs.treated, pairs.clusters)
    if isinstance(evidence, BinaryPairs):
        return _binary_p(evidence.losses, evidence.gains, evidence.n, margin)
    return PValues(p_holds(evidence, margin), p_breaks(evidence, margin))


def verdicts(random: Random, scale: Scale) -> Iterable[Check]:
    """Share of experiments (20 cells) with any false verdict, unadjusted and by Holm: <= 5%."""
    print("\n## Experiments of 20 cells with a false verdict\n")
    print("| truth and data | margin | n | false verdict | by Holm | unadjusted | one cell |")
    print("|---|---|---|---|---|---|---|---|")
    for name, margin, word, draw in _truths():
        for n in SIZES:
            yield _errors(random, name, margin, word, draw, n, scale.experiments)


def _truths() -> Iterable[tuple[str, float, str, Callable[[Random, int], Pairs]]]:
    for margin in (0.0, 0.02, 0.10):
        yield "null, binary", margin, "breaks", lambda r, n: binary(r, n, 0.1, 0.1)
        yield "null, rare flips", margin, "breaks", lambda r, n: binary(r, n, 0.02, 0.02)
        yield "null, continuous", margin, "breaks", lambda r, n: redraw(r, n, 0.0)
    for margin in (0.02, 0.10):
        yield "loss at margin, binary", margin, "holds", lambda r, n, m=margin: binary(r, n, m)
        yield (
            "loss at margin, 5% gains",
            margin,
            "holds",
            lambda r, n, m=margin: binary(r, n, m + 0.05, 0.05),
        )
        yield (
            "loss at margin, rare",
            margin,
            "holds",
            lambda r, n, m=margin: jitter(r, n, m / 0.65),
        )


def _errors(
    random: Random,
    name: str,
    margin: float,
    word: str,
    draw: Callable[[Random, int], Pairs],
    n: int,
    runs: int,
) -> Check:
    cells, holm, plain, single = 20, 0, 0, 0
    rules = Rules(margin, ALPHA)
    for _ in range(runs):
        seen = {cell: p_values(draw(random, n), margin) for cell in range(cells)}
        wrong = [getattr(p, f"p_{word}") < ALPHA / 2 for p in seen.values()]
        corrected = corrected_verdicts(seen, cells, rules).values()
        holm += any(verdict.corrected == word for verdict in corrected)
        plain, single = plain + any(wrong), single + sum(wrong)
    print(
        f"| {name} | {margin} | {n} | {word} | {holm / runs:.3f} | {plain / runs:.3f} "
        f"| {single / runs / cells:.4f} |",
        flush=True,
    )
    return Check(f"false {word}, {name}, margin {margin}, n {n}", holm / runs, 0.05, runs, False)


# -- transitions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A quality curve over `BUDGETS`: net loss at each, and the margin it is judged by."""

    name: str
    losses: tuple[float, ...]

    def truth(self, margin: float) -> tuple[float, float]:
        """(largest budget that breaks, smallest that does not); 0 and 1 beyond the ladder."""
        broken = [b for b, loss in zip(BUDGETS, self.losses, strict=True) if loss > margin]
        kept = [b for b, loss in zip(BUDGETS, self.losses, strict=True) if loss <= margin]
        return max(broken, default=0.0), min(kept, default=1.0)


PLANTED = (
    Planted("cliff, 30 points", (0.30, 0.30, 0.30, 0.0, 0.0, 0.0, 0.0)),
    Planted("cliff, 60 points", (0.60, 0.60, 0.60, 0.0, 0.0, 0.0, 0.0)),
    Planted("slope", (0.45, 0.36, 0.27, 0.18, 0.09, 0.0, 0.0)),
    Planted("flat", (0.0,) * 7),
)
CORRECT, BACKGROUND = 0.7, 0.025  # of the control; flips in either direction, besides the loss


def ladder(random: Random, n: int, losses: Sequence[float]) -> list[Pairs]:
    """One bin over all budgets: what is lost at one is lost below it too, flips come and go."""
    control = random.random(n) < CORRECT
    endurance = random.random(n)
    return [_rung(random, control, endurance >= loss / CORRECT) for loss in losses]


def _rung(random: Random, control: np.ndarray, kept: np.ndarray) -> Pairs:
    flip = random.random(len(control)) < BACKGROUND / np.where(control, CORRECT, 1 - CORRECT)
    treated = np.where(control, kept & ~flip, flip)
    return Pairs(control * 1.0, treated * 1.0, np.arange(len(control)))


@dataclass(frozen=True)
class Bracket:
    """What one simulated ladder gave: whether it excludes the truth, and its width in steps."""

    excludes: bool
    width: int


def bracket_of(words: Sequence[str], truth: tuple[float, float]) -> Bracket:
    """Compare a ladder's bracket with the truth; an end that was not found counts to the edge."""
    broken, safe = bracket(list(zip(BUDGETS, words, strict=True)))
    excludes = (safe is not None and safe < truth[1]) or (broken or 0.0) > truth[0]
    top = BUDGETS.index(safe) if safe else len(BUDGETS)
    return Bracket(excludes, top - (BUDGETS.index(broken) if broken else -1))


def transitions(random: Random, scale: Scale) -> Iterable[Check]:
    """Brackets that exclude the truth (<= 5%) and their width in ladder steps, margin 0.10."""
    print("\n## Brackets of planted transitions, 7 budgets, margin 0.10\n")
    print("| truth | bins | n per bin | excludes the truth | median width | both ends found |")
    print("|---|---|---|---|---|---|")
    for planted in PLANTED:
        for bins, n in ((1, 25), (1, 50), (1, 100), (5, 25), (5, 50), (5, 100)):
            yield from _brackets(random, planted, bins, n, scale.ladders)


def _brackets(random: Random, planted: Planted, bins: int, n: int, runs: int) -> Iterable[Check]:
    found = []
    for _ in range(runs):
        rungs = [ladder(random, n, planted.losses) for _ in range(bins)]
        words = [_judged(cells) for cells in zip(*rungs, strict=True)]
        found.append((bracket_of(words, planted.truth(0.10)), words))
    wrong = float(np.mean([b.excludes for b, _ in found]))
    width = float(np.median([b.width for b, _ in found]))
    ends = np.mean([w[0] == "breaks" and w[-1] == "holds" for _, w in found])
    print(f"| {planted.name} | {bins} | {n} | {wrong:.3f} | {width:g} | {ends:.2f} |", flush=True)
    what = f"{planted.name}, {bins} bins of {n}"
    yield Check(f"bracket excludes, {what}", wrong, 0.05, runs, at_least=False)
    most = {(1, 100): 2, (5, 100): 1, (5, 50): 1, (5, 25): 1}.get((bins, n))
    if planted.name.startswith("cliff") and most:
        narrow = float(width <= most)
        yield Check(f"width <= {most}, {what}", narrow, 1.0, runs, at_least=True)


# -- sampling until decided ----------------------------------------------------------------------

MOST, LEAST = 200, 12


@dataclass(frozen=True)
class Spent:
    """One sequential experiment: its answers beside those of a fixed number, and its verdicts."""

    share: float
    wrong: bool
    undecided: float


def sequential(random: Random, scale: Scale) -> Iterable[Check]:
    """Answers of sequential sampling, 12 to 200 examples: <= half; false verdicts <= 5%."""
    print(f"\n## Sequential sampling, {LEAST} to {MOST} examples, margin 0.10, error alpha / m\n")
    print("| truth | data | cells | answers, of fixed 200 | false verdict | undecided | at 200 |")
    print("|---|---|---|---|---|---|---|")
    for planted in PLANTED:
        yield from _sequential(
            random, planted, "binary", functools.partial(ladder, losses=planted.losses), scale
        )
    at_margin = Planted("loss at margin", (0.10,) * 7)
    for name, draw in (
        ("binary", lambda r, n: binary(r, n, 0.10)),
        ("5% gains", lambda r, n: binary(r, n, 0.15, 0.05)),
        ("rare, continuous", lambda r, n: jitter(r, n, 0.10 / 0.65)),
        ("clusters of 5", lambda r, n: clustered(r, n, 0.10, 0.3)),
    ):
        cells = functools.partial(_alike, draw=draw)
        yield from _sequential(random, at_margin, name, cells, scale)


def _alike(random: Random, n: int, draw: Callable[[Random, int], Pairs]) -> list[Pairs]:
    return [draw(random, n) for _ in BUDGETS]


def _sequential(
    random: Random,
    planted: Planted,
    name: str,
    draw: Callable[[Random, int], list[Pairs]],
    scale: Scale,
) -> Iterable[Check]:
    found, at_most = [], []
    for _ in range(scale.experiments):
        cells = draw(random, MOST)
        found.append(_spent(cells, planted))
        p = [p_values(pairs, 0.10) for pairs in cells]
        words = [verdict_of(one.p_holds, one.p_breaks, ALPHA / len(p)) for one in p]
        at_most.append(np.mean([word == "undetermined" for word in words]))
    share, wrong, undecided = (
        float(np.mean([getattr(f, what) for f in found]))
        for what in ("share", "wrong", "undecided")
    )
    print(
        f"| {planted.name} | {name} | {len(BUDGETS)} | {share:.3f} | {wrong:.3f} "
        f"| {undecided:.3f} | {np.mean(at_most):.3f} |",
        flush=True,
    )
    what = f"sequential, {planted.name}, {name}"
    yield Check(f"false verdict, {what}", wrong, 0.05, len(found), at_least=False)
    if planted in PLANTED:
        yield Check(f"answers, {what}", share, 0.5, 10**9, at_least=False)


def _spent(cells: Sequence[Pairs], planted: Planted, margin: float = 0.10) -> Spent:
    """Sample one group's cells: the control is asked as often as the cell that asks most."""
    differences = {
        Rung("p", budget): pairs.treated - pairs.control
        for budget, pairs in zip(BUDGETS, cells, strict=True)
    }
    limits = Limits(margin, ALPHA / len(cells), LEAST, MOST)
    drawn = Drawn(cells[0].clusters, differences)
    done = advance(start(list(differences), drawn.clusters, limits), drawn, limits)
    words = [done.cells[rung].verdict for rung in differences]
    wrong = [
        (word == "holds" and loss >= margin) or (word == "breaks" and loss <= margin)
        for word, loss in zip(words, planted.losses, strict=True)
    ]
    asked = sum(s.n for s in done.cells.values()) + max(map(done.wanted, done.cells))
    undecided = float(np.mean([word == "undetermined" for word in words]))
    return Spent(asked / MOST / (len(cells) + 1), any(wrong), undecided)


# -- rows over bins that stopped when they pleased -------------------------------------------------

STOPPED = (
    ("the margin in each of 3 bins, 5% gains", (0.10,) * 3),
    ("0.30 in one of 3 bins", (0.0, 0.0, 0.30)),
    ("0.15 in two of 3 bins, one context of 5 after another", (0.15, 0.15, 0.0)),
)


def rounds(random: Random, scale: Scale) -> Iterable[Check]:
    """Rows over bins sampled in rounds, a loss of the margin, 0.10: <= 2.5% either way."""
    print("\n## Rows over bins sampled in rounds, a loss of exactly the margin, 0.10\n")
    print("| truth | false holds | false breaks |\n|---|---|---|")
    for name, losses in STOPPED:
        found = [
            _row_in_rounds(random, losses, "context" in name) for _ in range(scale.experiments // 2)
        ]
        holds, breaks = (float(np.mean([word == w for word in found])) for w in WORDS)
        print(f"| {name} | {holds:.3f} | {breaks:.3f} |", flush=True)
        yield Check(f"false holds in rounds, {name}", holds, 0.025, len(found), at_least=False)
        yield Check(f"false breaks in rounds, {name}", breaks, 0.025, len(found), at_least=False)


def _row_in_rounds(random: Random, losses: Sequence[float], shared: bool) -> str:
    """The verdict of one row at one-sided 0.025, each bin stopped when its own cell is decided."""
    rung, limits = Rung("p", 0.5), Limits(0.10, ALPHA, LEAST, MOST)
    strata = []
    for loss in losses:
        pairs = (
            contexts(random, 40, 5, loss + 0.05, 0.05, 0.3)
            if shared
            else (binary(random, MOST, loss + 0.05, 0.05))
        )
        drawn = Drawn(pairs.clusters, {rung: pairs.treated - pairs.control})
        n = advance(start([rung], drawn.clusters, limits), drawn, limits).cells[rung].n
        strata.append((pairs.control[:n], pairs.treated[:n], pairs.clusters[:n]))
    return _word_of(over_bins(strata, anytime=True, largest=[5 if shared else 1] * len(losses)))


# -- scale ---------------------------------------------------------------------------------------


def at_scale(random: Random, scale: Scale) -> Iterable[Check]:
    """Seconds and peak memory of `judge_pairs` by rows: 1,000,000 under 20 s and 1.5 GB."""
    print("\n## judge_pairs by rows (2,000 resamplings per ladder)\n")
    print("| rows | cells | seconds | peak memory, MB |\n|---|---|---|---|")
    for tasks in (1, 2, 20) if scale is FULL else (1, 2):
        per_cell = 1_000 if tasks > 1 else 200
        table = big_table(random, tasks, per_cell)
        start = time.perf_counter()
        judge_pairs(table, margin=0.10, alpha=ALPHA)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {len(table):,} | {tasks * 50} | {seconds:.1f} | {peak:,.0f} |", flush=True)
        if len(table) == 1_000_000:
            yield Check("1,000,000 rows in 20 s", float(seconds < 20), 1.0, 1, at_least=True)
            yield Check("1,000,000 rows in 1.5 GB", float(peak < 1536), 1.0, 1, at_least=True)


def big_table(random: Random, tasks: int, examples: int) -> pd.DataFrame:
    """`tasks` x 5 bins x 10 budgets x `examples`, half of the tasks right or wrong."""
    index = pd.MultiIndex.from_product(
        [
            [f"task{t}" for t in range(tasks)],
            range(5),
            ["snapkv"],
            np.round(np.arange(0.05, 1, 0.1), 2),
            [f"example-{i}" for i in range(examples)],
        ],
        names=["task", "bin", "policy", "budget", "example_id"],
    )
    table = index.to_frame(index=False)
    score = random.random(len(table))
    kept = 1 - 0.3 * (random.random(len(table)) < 0.2 * (table["budget"] < 0.3))
    right = (table["task"].str[-1].astype(int) % 2 == 0).to_numpy()
    table["cluster"] = table["example_id"]
    table["control"] = np.where(right, (score < 0.8) * 1.0, score)
    table["treated"] = np.where(right, (score * (2 - kept) < 0.8) * 1.0, score * kept)
    return table


SECTIONS = {
    "exact": exact,
    "intervals": intervals,
    "pooled": pooled,
    "shapes": shapes,
    "unpaired": unpaired,
    "failures": failures,
    "noise": noise,
    "verdicts": verdicts,
    "transitions": transitions,
    "sequential": sequential,
    "rounds": rounds,
    "scale": at_scale,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections asked for; 1 if any target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="far fewer repetitions")
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, {'quick' if options.quick else 'full'}")
    checks: list[Check] = []
    for name in options.only:
        start, random = time.perf_counter(), np.random.default_rng([options.seed, len(name)])
        checks += SECTIONS[name](random, QUICK if options.quick else FULL)
        print(f"\n({name}: {time.perf_counter() - start:.0f} s)")
    missed = [check for check in checks if check.missed]
    print(f"\n{len(checks) - len(missed)} of {len(checks)} targets kept.")
    for check in missed:
        print(f"MISSED {check.name}: {check.share:.3f}, target {check.bound}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
