"""Do verdicts on overlap keep their error rates where the floor is noisy? Prints a table.

    python -m tests.benchmarks.calibration_divergence [--quick] [--seed N]

The full cache, asked again, overlaps with itself by 0.90 to 1.0 on average, and an arm loses
exactly the margin beside it: then `holds` is wrong, and so is `breaks`, each to be said in at most
2.5% of runs. Prompts differ in how noisy they are, and in what they lose; some floors are noisy
everywhere, others on one prompt in five. Bounds as of top-k servers hide where in a tenth the
values lie. A floor of 1 is one that the engine tells beforehand: nothing can be above it.
Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pytest_kvbench.analyse.cell import evidence_of
from pytest_kvbench.analyse.cells import corrected_verdicts
from pytest_kvbench.analyse.evidence import p_breaks, p_holds
from pytest_kvbench.analyse.pooled import Pairs
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.pipeline.measures import ROUNDING
from tests.benchmarks.calibration import Check, PValues

ALPHA = 0.05
FLOORS = (1.0, 0.98, 0.95, 0.90)
MARGINS, SIZES = (0.02, 0.05, 0.10), (13, 24, 50, 100)
CELLS = 20
WIDTH = 0.1  # of bounds, as k = 20 leaves
CONVERSATION = 3  # prompts

Random = np.random.Generator
Drawn = Callable[[Random, int, float], np.ndarray]


def everywhere(random: Random, n: int, mean: float) -> np.ndarray:
    """Noise of every prompt; some are four times as noisy as others."""
    hard: np.ndarray = np.where(np.arange(n) % 2, 0.4, 1.6)
    return mean * hard * random.beta(2, 6, n) * 4


def here_and_there(random: Random, n: int, mean: float) -> np.ndarray:
    """Noise of one prompt in five, as where a batch rounds otherwise and a reply turns."""
    return 5 * mean * (random.random(n) < 0.2) * random.uniform(0.2, 1.8, n)


def graded(random: Random, n: int, mean: float) -> np.ndarray:
    """Every prompt loses something."""
    return random.beta(4 * mean, 4 * (1 - mean), n)


def rare(random: Random, n: int, mean: float) -> np.ndarray:
    """Few prompts lose much, the others nothing."""
    return (random.random(n) < 2 * mean) * random.uniform(0.2, 0.8, n)


NOISES: tuple[Drawn, ...] = (everywhere, here_and_there)
LOSSES: tuple[Drawn, ...] = (graded, rare)


def pairs(
    random: Random, n: int, floor: float, loss: float, kinds: tuple[Drawn, Drawn], size: int = 1
) -> Pairs:
    """The full cache asked again, and an arm of so large a true loss beside it."""
    noise, lose = kinds
    control = 1 - noise(random, n, 1 - floor)
    lost = np.repeat(lose(random, -(-n // size), loss / floor), size)[:n]
    treated = (1 - noise(random, n, 1 - floor)) * (1 - lost)
    return Pairs(control, treated, np.arange(n) // size)


def blurred(random: Random, exact: Pairs) -> Pairs:
    """The same, known between bounds alone."""
    low, high = zip(*(_around(random, of) for of in (exact.control, exact.treated)), strict=True)
    return Pairs(*low, exact.clusters, control_high=high[0], treated_high=high[1])


def _around(random: Random, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.clip(exact - WIDTH * random.random(len(exact)), 0, 1)
    return low, np.maximum(np.clip(low + WIDTH, 0, 1), exact)


def p_values(found: Pairs, margin: float, room: float = 1.0) -> PValues:
    """By the reading that makes either hardest."""
    worst, best = (
        evidence_of(p.control, p.treated, np.unique(p.clusters, return_inverse=True)[1], room=room)
        for p in (found.worst, found.best)
    )
    return PValues(p_holds(worst, margin), p_breaks(best, margin))


def rows(random: Random, runs: int) -> Iterator[Check]:
    """A row a floor: the worst of all margins, sizes, kinds of noise and of loss."""
    print("| floor | settings | false `holds` | false `breaks` | of conversations | of bounds |")
    print("|---|---|---|---|---|---|")
    settings = list(itertools.product(MARGINS, SIZES, itertools.product(NOISES, LOSSES)))
    for floor in FLOORS:
        shares = {
            (name, *setting): wrong(random, floor, *setting, runs, **how)
            for name, how in (("", {}), ("conversations", {"size": CONVERSATION}))
            for setting in settings
        }
        hidden = [
            wrong(random, floor, margin, n, kinds, runs, bounds=True)
            for margin, n, kinds in settings
            if n == SIZES[-1]
        ]
        yield from _kept(floor, shares, hidden, runs)


def wrong(
    random: Random,
    floor: float,
    margin: float,
    n: int,
    kinds: tuple[Drawn, Drawn],
    runs: int,
    *,
    size: int = 1,
    bounds: bool = False,
) -> tuple[float, float]:
    """The shares of runs that hold and that break, both wrong, of a loss of the margin."""
    holds = breaks = 0
    for _ in range(runs):
        found = pairs(random, n, floor, margin, kinds, size)
        room = ROUNDING if floor == 1 else 1.0
        p = p_values(blurred(random, found) if bounds else found, margin, room)
        holds, breaks = holds + (p.p_holds < ALPHA / 2), breaks + (p.p_breaks < ALPHA / 2)
    return holds / runs, breaks / runs


def _kept(
    floor: float,
    shares: dict[tuple[object, ...], tuple[float, float]],
    hidden: Sequence[tuple[float, float]],
    runs: int,
) -> Iterator[Check]:
    alone = [both for (name, *_), both in shares.items() if not name]
    together = [both for (name, *_), both in shares.items() if name]
    worst = [max(side) for some in (alone, together, hidden) for side in zip(*some, strict=True)]
    shown = [f"{share:.3f}" for share in worst]
    print(
        f"| {floor:.2f} | {len(alone)} | {shown[0]} | {shown[1]} | {shown[2]}, {shown[3]} "
        f"| {shown[4]}, {shown[5]} |",
        flush=True,
    )
    for name, both in [*shares.items(), *((("bounds",), both) for both in hidden)]:
        for word, share in zip(("holds", "breaks"), both, strict=True):
            yield Check(f"false {word}, floor {floor}, {name}", share, ALPHA / 2, runs, False)


def families(random: Random, runs: int) -> Iterator[Check]:
    """Experiments of 20 cells at their margin, or that lose nothing, by Holm."""
    print("\n| 20 cells, 50 prompts | floor | any false `holds` | any false `breaks` |")
    print("|---|---|---|---|")
    rules, kinds = Rules(0.05, ALPHA), (everywhere, rare)
    for (name, loss), floor in itertools.product(
        (("lose the margin", 0.05), ("lose nothing", 0.0)), FLOORS[1:]
    ):
        words = [_words(random, floor, loss, rules, kinds) for _ in range(runs)]
        holds, breaks = (sum(word in seen for seen in words) / runs for word in ("holds", "breaks"))
        shown = f"{holds:.3f}" if loss else "-"
        print(f"| {name} | {floor:.2f} | {shown} | {breaks:.3f} |", flush=True)
        if loss:
            yield Check(f"any false holds, {name}, {floor}", holds, ALPHA / 2, runs, False)
        yield Check(f"any false breaks, {name}, {floor}", breaks, ALPHA / 2, runs, False)


def _words(
    random: Random, floor: float, loss: float, rules: Rules, kinds: tuple[Drawn, Drawn]
) -> set[str]:
    seen = {
        cell: p_values(pairs(random, 50, floor, loss, kinds), rules.margin) for cell in range(CELLS)
    }
    return {verdict.corrected for verdict in corrected_verdicts(seen, CELLS, rules).values()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--seed", type=int, default=20261127)
    options = parser.parse_args()
    began, random = time.perf_counter(), np.random.default_rng(options.seed)
    runs = 40 if options.quick else 400
    print(f"seed {options.seed}, {runs} runs a setting\n")
    checks = [*rows(random, runs), *families(random, runs // 2)]
    missed = [check for check in checks if check.missed]
    seconds = time.perf_counter() - began
    print(f"\n{len(checks) - len(missed)} of {len(checks)} targets kept; {seconds:.0f} s")
    for check in missed:
        print(f"MISSED {check.name}: {check.share:.3f}, target {check.bound}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
