"""`kvbench power`: how many examples an experiment needs, before it asks any."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from pytest_kvbench.cli import given, options
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.experiment.load import Override, load_experiment
from pytest_kvbench.experiment.schema import Experiment


@dataclass(frozen=True)
class Shape:
    """What of an experiment decides about power and cost.

    `cells` share the error; `bins` are pooled for the headline; one example in every bin makes
    `per_example` requests; `declared` is what a bin asks for now (None: no experiment was given).
    """

    cells: int
    bins: int
    per_example: int
    declared: int | None = None
    rounds: Rounds | None = None

    @property
    def rows(self) -> int:
        """Rows over all bins: a family of their own."""
        return max(1, self.cells // self.bins)


@dataclass(frozen=True)
class Rounds:
    """Sampling in rounds: examples of a bin at least and at most, cells of the longest ladder."""

    least: int
    most: int
    rungs: int


@dataclass(frozen=True)
class Row:
    """One line of the answer. `n` is per bin; None where 100,000 do not suffice."""

    of: str
    n: int | None
    power: float
    requests: int | None


_share = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--margin", type=_share, help="The loss one can live with (default: the file's).")
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), help="Two-sided error.")
@click.option("--loss", default=0.0, show_default=True, help="The true loss one expects.")
@click.option(
    "--discordance",
    type=click.FloatRange(0, 1),
    default=0.10,
    show_default=True,
    help="Share of examples that one arm gets right and the other wrong.",
)
@click.option(
    "--power", "chance", type=_share, default=0.8, show_default=True, help="Chance of a verdict."
)
@click.option("--cells", type=click.IntRange(1), help="Treated cells that share the error.")
@options.sets
@options.as_json
def power(
    file: Path | None,
    margin: float | None,
    alpha: float | None,
    loss: float,
    discordance: float,
    chance: float,
    cells: int | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say how many examples per bin let cells `hold`, and what they cost.

    With an experiment FILE: its margin, error, cells, bins and arms, and the power of the examples
    it declares, by the rule that will judge them: in rounds (simulated) where sampling is
    sequential. Scores that are right or wrong, examples that share no context.
    """
    experiment = _experiment(file, sets) if file else None
    gate = experiment.gate if experiment else Gate()
    margin, alpha = margin or gate.margin, alpha or gate.alpha
    shape = shape_of(experiment, cells)
    rows = answers(shape, margin, alpha, discordance, -loss, chance)
    if as_json:
        asked = {"margin": margin, "alpha": alpha, "loss": loss, "discordance": discordance}
        figures = {**asked, "power": chance, "cells": shape.cells, "bins": shape.bins}
        click.echo(json.dumps({**figures, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    click.echo(
        f"to hold a margin of {margin:g} at a loss of {loss:g} where {discordance:.0%} of answers "
        f"differ, with power {chance:g} at alpha {alpha:g}:"
    )
    for row in rows:
        click.echo(_line(row))


def _experiment(file: Path, sets: tuple[str, ...]) -> Experiment:
    from pytest_kvbench.pipeline import plan

    declared = load_experiment(file, overrides=[Override.parse(text) for text in sets])
    plan.check(declared, given.tasks(of=[declared]))
    return declared.experiment


def shape_of(experiment: Experiment | None, cells: int | None) -> Shape:
    """An experiment's shape; without one, `cells` budgets of one policy on one bin."""
    if experiment is None:
        return Shape(cells or 1, 1, (cells or 1) + 1)
    from pytest_kvbench.pipeline import plan

    groups = plan.groups(plan.cells(experiment))
    per_example = sum(
        (len(plan.asked(experiment, members)) + experiment.aa) * experiment.draws_of(group.variant)
        for group, members in groups.items()
    )
    planned = max(1, plan.treated_cells(experiment))
    bins = experiment.bins
    rungs = Counter((group, cell.policy) for group, members in groups.items() for cell in members)
    rounds = Rounds(bins.least, max(bins.per_bins), max(rungs.values(), default=1))
    return Shape(
        cells or planned,
        bins.n,
        per_example,
        min(bins.per_bins),
        rounds if experiment.sequential else None,
    )


def answers(
    shape: Shape, margin: float, alpha: float, discordance: float, delta: float, chance: float
) -> list[Row]:
    """What one cell needs, what every cell needs, what the bins need together; what is declared.

    Raises:
        UsageError: a value outside its range.
    """
    from pytest_kvbench.analyse.power import plan, power_of

    def row(of: str, cells: int, bins: int) -> Row:
        planned = plan(
            margin, discordance=discordance, power=chance, alpha=alpha, delta=delta, cells=cells
        )
        n = None if planned.n is None else -(-planned.n // bins)
        return Row(of, n, planned.power, None if n is None else n * shape.per_example)

    rows = [row("one cell alone", 1, 1)]
    if shape.cells > 1:
        rows.append(row(f"each of {shape.cells} cells, at alpha / {shape.cells}", shape.cells, 1))
    if shape.bins > 1:
        rows.append(row(f"{shape.bins} alike bins together", 1, shape.bins))
        if shape.rows > 1:
            of = f"{shape.bins} bins, each of {shape.rows} rows over them"
            rows.append(row(of, shape.rows, shape.bins))
    if shape.rounds is not None:
        rows.append(_in_rounds(shape, shape.rounds, margin, alpha, discordance, delta))
        return rows
    if shape.declared is not None:
        n, level = shape.declared, alpha / shape.cells
        reached = power_of(n, margin, discordance, delta, level)
        rows.append(Row("as declared, each cell", n, reached, n * shape.per_example))
    return rows


def _in_rounds(
    shape: Shape, rounds: Rounds, margin: float, alpha: float, discordance: float, delta: float
) -> Row:
    from pytest_kvbench.analyse.foreseen import power_in_rounds
    from pytest_kvbench.analyse.sequential import Limits

    limits = Limits(margin, alpha / shape.cells, rounds.least, rounds.most)
    reached = power_in_rounds(limits, rounds.rungs, discordance, delta)
    of = f"as declared, {rounds.least} to {rounds.most} in rounds"
    return Row(of, rounds.most, reached, rounds.most * shape.per_example)


def _line(row: Row) -> str:
    if row.n is None:
        return f"  {row.of:38} no number up to 100,000 would do"
    return f"  {row.of:38} {row.n:6,} per bin  power {row.power:.2f}  {row.requests:10,} requests"
