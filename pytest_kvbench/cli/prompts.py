"""How many prompts distributions need: the part of `kvbench power` that no grade is behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pytest_kvbench.analyse.layout import Layout
from pytest_kvbench.analyse.power import Graded, fewest
from pytest_kvbench.analyse.rules import require
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import measures, plan


@dataclass(frozen=True)
class Need:
    """Prompts of a bin; None where no number within reach suffices.

    `least` is what it takes whatever they show, `n` what it takes with the power that is asked for.
    """

    of: str
    least: int
    n: int | None


@dataclass(frozen=True)
class Prompts:
    """What the distributions of an experiment need.

    Args:
        measure: what is judged of them.
        margin: the loss of it that is still acceptable.
        alpha: two-sided error of the family.
        cells: that share it.
        layout: the contexts of the bins that a row rests on, and how many rows there are.
    """

    measure: str
    margin: float
    alpha: float
    cells: int
    layout: Layout

    @property
    def size(self) -> float:
        """Examples of a context."""
        smallest = self.layout.smallest
        return smallest.n / len(smallest.bins[0])

    def truth(self, loss: float, spread: float, shared: float) -> Graded:
        """What its differences are taken to be like.

        Raises:
            UsageError: no number of prompts holds such a loss.
        """
        require("loss", loss, -1 < loss < self.margin, f"below the margin, {self.margin:g}")
        return Graded(loss, spread, self.size, shared)

    def to_json(self, truth: Graded, power: float) -> dict[str, object]:
        """Plain data for programs."""
        figures = {"measure": self.measure, "margin": self.margin, "alpha": self.alpha}
        told = {"loss": truth.loss, "spread": truth.spread, "power": power, "cells": self.cells}
        return {**figures, **told, "rows": [asdict(need) for need in self.needs(truth, power)]}

    def needs(self, truth: Graded, power: float) -> Iterator[Need]:
        """Of one cell, of every cell, of the bins together: prompts in each bin."""
        bins, rows = len(self.layout.bins), self.layout.rows
        yield self._need("one cell alone", 1, 1, truth, power)
        if self.cells > 1:
            of = f"each of {self.cells} cells, at alpha / {self.cells}"
            yield self._need(of, self.cells, 1, truth, power)
        if bins > 1:
            yield self._need(
                f"{bins} bins, each of {rows} rows over them", rows, bins, truth, power
            )

    def _need(self, of: str, family: int, bins: int, truth: Graded, power: float) -> Need:
        level = self.alpha / family
        least = fewest(self.margin, level) * self.size
        found = truth.fewest(self.margin, level, power)
        n = None if found is None else max(-(-found // bins), round(-(-least // bins)))
        return Need(of, round(-(-least // bins)), n)


def prompts_of(experiment: Experiment, layout: Layout, cells: int | None) -> Prompts:
    """Those of an experiment that compares distributions.

    Args:
        experiment: whose gate and arms these are.
        layout: the contexts of its bins.
        cells: in place of its treated cells.
    """
    measure = measures.of_distributions(experiment)
    gate = experiment.gate_of(measure)
    treated = cells or max(1, plan.treated_cells(experiment, measure))
    return Prompts(measure, gate.loss, gate.alpha, treated, layout)


def lines(found: Prompts, truth: Graded, power: float) -> Iterator[str]:
    """The answer, as the command line prints it."""
    yield (
        f"to hold a margin of {found.margin:g} of {found.measure} at a loss of {truth.loss:g} "
        f"where prompts differ by {truth.spread:g} (standard deviation), with power {power:g} at "
        f"alpha {found.alpha:g}:"
    )
    for need in found.needs(truth, power):
        enough = "no number within reach would do" if need.n is None else f"{need.n:6,} per bin"
        yield f"  {need.of:38} {enough}, at least {need.least:,} whatever they show"
