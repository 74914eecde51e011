"""`kvbench power`: how many examples an experiment needs, before it asks any."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pytest_kvbench.cli import given, options
from pytest_kvbench.cli.lines import echo_lines
from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.experiment.schema import Experiment

if TYPE_CHECKING:
    from pytest_kvbench.analyse.foreseen import Truth
    from pytest_kvbench.analyse.layout import Layout
    from pytest_kvbench.analyse.rules import Rules
    from pytest_kvbench.selection import TaskManifest


@dataclass(frozen=True)
class Shape:
    """What of an experiment decides about power and cost.

    Args:
        cells: treated cells that share the error.
        layout: the contexts of the bins that a row rests on, and how many rows there are.
        per_example: requests of one example in every bin.
        declared: what a bin asks for now; None: no experiment was given.
        rounds: how a bin is sampled, where that is in rounds.
        lines: what the plan can never decide.
        noise: share of scores that differ between the control and its own second run, if measured.
    """

    cells: int
    layout: Layout
    per_example: int
    declared: int | None = None
    rounds: Rounds | None = None
    lines: tuple[str, ...] = ()
    noise: float | None = None

    @property
    def bins(self) -> int:
        """That are pooled for the headline."""
        return len(self.layout.bins)


@dataclass(frozen=True)
class Rounds:
    """Sampling in rounds: examples of a bin at least and at most, cells of the longest ladder."""

    least: int
    most: int
    rungs: int


@dataclass(frozen=True)
class Row:
    """One line of the answer. `n` is per bin; None where no number within reach suffices."""

    of: str
    n: int | None
    power: float
    requests: int | None


_share = click.FloatRange(0, 1, min_open=True, max_open=True)
ASSUMED = 0.10  # discordance, where nothing was measured


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--margin", type=_share, help="The loss one can live with (default: the file's).")
@click.option("--alpha", type=click.FloatRange(0, 0.5, min_open=True), help="Two-sided error.")
@click.option("--loss", default=0.0, show_default=True, help="The true loss one expects.")
@click.option(
    "--discordance",
    type=click.FloatRange(0, 1),
    help="Share of examples that one arm gets right and the other wrong (default: that of the "
    "control's own second run, where the group has one; else 0.10).",
)
@click.option(
    "--spread",
    type=_share,
    default=0.05,
    show_default=True,
    help="Of distributions: the standard deviation, over prompts, of what an arm loses.",
)
@click.option(
    "--power", "chance", type=_share, default=0.8, show_default=True, help="Chance of a verdict."
)
@click.option("--cells", type=click.IntRange(1), help="Treated cells that share the error.")
@click.option(
    "--per-context",
    type=click.IntRange(1, 1_000),
    help="Examples that share a context (default: as in the group's manifest; else 1).",
)
@click.option(
    "--shared",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Correlation of pairs that share a context.",
)
@options.reports
@options.sets
@options.as_json
def power(
    file: Path | None,
    margin: float | None,
    alpha: float | None,
    loss: float,
    discordance: float | None,
    spread: float,
    chance: float,
    cells: int | None,
    per_context: int | None,
    shared: float,
    reports: Path,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say how many examples per bin let cells `hold`, and what they cost.

    With an experiment FILE: its margin, error, cells, bins and arms, and the power of the examples
    it declares, by the rules that will judge them: rows over bins as such, contexts as in the
    group's manifest, in rounds (simulated) where sampling is sequential. A margin that is a share
    to retain is taken for what it is where the control scores 1. What distributions need is said
    where the file has them measured: they have a margin of their own.
    """
    from pytest_kvbench.analyse.foreseen import Truth
    from pytest_kvbench.analyse.rules import Rules

    experiment = _experiment(file, sets) if file else None
    gate = experiment.gate if experiment else Gate()
    gate = gate.model_copy(update={"margin": margin or gate.margin, "alpha": alpha or gate.alpha})
    if experiment is not None:
        if gate.divergence is not None and margin and not experiment.scores:
            told = gate.divergence.model_copy(update={"margin": margin})
            gate = gate.model_copy(update={"divergence": told})
        experiment = experiment.model_copy(update={"gate": gate})
    shape = shape_of(experiment, cells, reports, per_context)
    found, lines = dict[str, object](), list[str]()
    if experiment is None or experiment.scores:
        if discordance is None:
            discordance = ASSUMED if shape.noise is None else max(shape.noise, abs(loss))
        rules = Rules(gate.loss, gate.alpha, correction=gate.correction)
        rows = answers(shape, rules, Truth(discordance, -loss, shared), chance)
        found = {"margin": rules.margin, "alpha": rules.alpha, "loss": loss}
        found |= {"discordance": discordance, "power": chance, "cells": shape.cells}
        found |= {"bins": shape.bins, "rows": [asdict(row) for row in rows]}
        lines = [
            f"to hold a margin of {rules.margin:g} at a loss of {loss:g} where {discordance:.0%} "
            f"of answers differ, with power {chance:g} at alpha {rules.alpha:g}:",
            *map(_line, rows),
        ]
    if experiment is not None and experiment.diverges:
        from pytest_kvbench.cli import prompts  # late: numpy and scipy

        need = prompts.prompts_of(experiment, shape.layout, cells)
        truth = need.truth(loss, spread, shared)
        found["divergence"] = need.to_json(truth, chance)
        lines += prompts.lines(need, truth, chance)
    if as_json:
        click.echo(json.dumps({**found, "never": shape.lines}, indent=1))
        return
    echo_lines((*lines, *(f"  {line}" for line in shape.lines)))


def _experiment(file: Path, sets: tuple[str, ...]) -> Experiment:
    from pytest_kvbench.pipeline import plan
    from pytest_kvbench.pipeline.declared import load_experiment

    declared = load_experiment(file, overrides=given.overrides(sets))
    plan.check(declared, given.tasks(of=[declared]))
    return declared.experiment


def shape_of(
    experiment: Experiment | None, cells: int | None, reports: Path, per_context: int | None
) -> Shape:
    """An experiment's shape; without one, `cells` budgets of one policy on one bin."""
    from pytest_kvbench.analyse.layout import Layout

    if experiment is None:
        return Shape(cells or 1, Layout(((per_context or 1,),)), (cells or 1) + 1)
    from pytest_kvbench.pipeline import foresee, measures, plan

    groups = plan.groups(plan.cells(experiment))
    per_example = sum(
        (len(plan.asked(experiment, members)) + experiment.aa) * experiment.draws_of(group.variant)
        for group, members in groups.items()
    )
    manifests, noise = _measured(experiment, reports)
    layout = _layout(experiment, manifests, per_context)
    bins = experiment.bins
    rungs = Counter((group, cell.policy) for group, members in groups.items() for cell in members)
    rounds = Rounds(bins.least, max(bins.per_bins), max(rungs.values(), default=1))
    return Shape(
        cells or max(1, plan.treated_cells(experiment, measures.of(experiment)[0])),
        layout,
        per_example,
        min(bins.per_bins),
        rounds if experiment.sequential else None,
        () if per_context else tuple(foresee.shortcomings(experiment, manifests)),
        noise,
    )


def _measured(
    experiment: Experiment, reports: Path
) -> tuple[Mapping[str, TaskManifest], float | None]:
    """The manifests of an experiment's group, and the discordance of its A/A, as far as there."""
    from pytest_kvbench.pipeline.conclude import summary_of
    from pytest_kvbench.pipeline.group import group_folder, open_group

    try:
        prepared = open_group(group_folder(experiment, reports))
    except MissingPrerequisiteError:
        return {}, None
    floor = (summary_of(prepared) or {}).get("integrity", {}).get("aa")
    return prepared.manifests, floor["discordance"] if floor else None


def _layout(
    experiment: Experiment, manifests: Mapping[str, TaskManifest], per_context: int | None
) -> Layout:
    """Of the task with the fewest examples, with the rows of all tasks."""
    from pytest_kvbench.analyse.layout import Layout
    from pytest_kvbench.pipeline import foresee

    found = list(foresee.layouts(experiment, {} if per_context else manifests).values())
    if not found:
        return Layout(((per_context or 1,),) * experiment.bins.n)
    least, rows = min(found, key=lambda layout: layout.n), sum(layout.rows for layout in found)
    if per_context:
        together = (Layout(((per_context,),)).grown(sum(sizes)) for sizes in least.bins)
        return Layout(tuple(layout.bins[0] for layout in together), rows)
    return replace(least, rows=rows)


def answers(shape: Shape, rules: Rules, truth: Truth, chance: float) -> list[Row]:
    """What one cell needs, what every cell needs, what the bins need together; what is declared.

    Raises:
        UsageError: a value outside its range.
    """

    def row(of: str, cells: int, bins: int) -> Row:
        n, reached = _fewest(shape, rules, truth, chance, cells, bins)
        return Row(of, n, reached, None if n is None else n * shape.per_example)

    rows, family, bins = [row("one cell alone", 1, 1)], shape.layout.rows, shape.bins
    if shape.cells > 1:
        rows.append(row(f"each of {shape.cells} cells, at alpha / {shape.cells}", shape.cells, 1))
    if bins > 1:
        rows.append(row(f"{bins} alike bins together", 1, bins))
        if family > 1:
            rows.append(row(f"{bins} bins, each of {family} rows over them", family, bins))
    if shape.declared is not None:
        rows += _as_declared(shape, rules, truth)
    return rows


def _fewest(
    shape: Shape, rules: Rules, truth: Truth, chance: float, cells: int, bins: int
) -> tuple[int | None, float]:
    """Examples per bin, and the power that they reach: exact where none share a context."""
    from pytest_kvbench.analyse import foreseen
    from pytest_kvbench.analyse.layout import Layout
    from pytest_kvbench.analyse.power import plan

    exact = plan(
        rules.margin,
        discordance=truth.discordance,
        power=chance,
        alpha=rules.alpha,
        delta=truth.delta,
        cells=cells,
    )
    single = None if exact.n is None else -(-exact.n // bins)
    if single is None or max(shape.layout.smallest.bins[0]) == 1:
        return single, exact.power
    alone = replace(rules, alpha=rules.alpha / cells, correction="none")
    contexts = Layout(shape.layout.smallest.bins * bins).grown(single)
    n = foreseen.size_for(contexts, truth, alone, chance)
    return n, 0.0 if n is None else foreseen.power_of_rows(contexts.grown(n), truth, alone)


def _as_declared(shape: Shape, rules: Rules, truth: Truth) -> Iterator[Row]:
    """The power of what the experiment asks for."""
    from pytest_kvbench.analyse import foreseen
    from pytest_kvbench.analyse.power import power_of
    from pytest_kvbench.analyse.sequential import Limits

    n, level = shape.layout.smallest.n, rules.alpha / shape.cells
    limits, arms = Limits(rules.margin, level, n, n), 1
    words, over = "as declared, each cell", f"as declared, each row over {shape.bins} bins"
    if shape.rounds is not None:
        limits = Limits(rules.margin, level, shape.rounds.least, shape.rounds.most)
        arms, n = shape.rounds.rungs, shape.rounds.most
        words = f"as declared, {limits.least} to {n} in rounds"
        reached = foreseen.power_in_rounds(shape.layout.smallest.bins[0], limits, arms, truth)
    elif max(shape.layout.smallest.bins[0]) == 1:
        reached = power_of(n, rules.margin, truth.discordance, truth.delta, level)
    else:
        alone = replace(rules, alpha=level, correction="none")
        reached = foreseen.power_of_rows(shape.layout.smallest, truth, alone)
    yield Row(words, n, reached, n * shape.per_example)
    if shape.bins > 1:
        pooled = (
            foreseen.power_of_rows(shape.layout, truth, rules)
            if shape.rounds is None
            else foreseen.power_of_rows_in_rounds(shape.layout, limits, arms, truth, rules)
        )
        yield Row(over, n, pooled, n * shape.per_example)


def _line(row: Row) -> str:
    if row.n is None:
        return f"  {row.of:38} no number within reach would do"
    return f"  {row.of:38} {row.n:6,} per bin  power {row.power:.2f}  {row.requests:10,} requests"
