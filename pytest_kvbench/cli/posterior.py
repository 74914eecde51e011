"""Where quality is lost, from all groups at once: `kvbench posterior`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytest_kvbench.cli import options
from pytest_kvbench.cli.lines import echo_lines, leaving_out
from pytest_kvbench.errors import KvbenchError, MissingPrerequisiteError, UsageError

if TYPE_CHECKING:
    from pytest_kvbench.ops.paired import GroupPairs
    from pytest_kvbench.posterior.rows import Analysis, ComparisonRow, StatementRow


@click.command()
@click.argument("groups", nargs=-1, metavar="[GROUP]...")
@options.reports
@click.option("--model", help="Groups of this model alone; needed where there are several.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The loss one can live with (default: the groups').",
)
@click.option(
    "--sampler",
    type=click.Choice(["nuts", "slice"]),
    default="nuts",
    show_default=True,
    help="slice shares no gradient with nuts: where both agree, neither was stuck.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the sampler.")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    default="runs",
    show_default=True,
    help="Where posteriors/post_... is made; one that is there is not made again.",
)
@options.as_json
def posterior(
    groups: tuple[str, ...],
    reports: Path,
    model: str | None,
    margin: float | None,
    sampler: Any,
    seed: int,
    target: Path,
    as_json: bool,
) -> None:
    """Say from GROUPs (default: all) how likely each budget loses less than the margin.

    Beside the verdicts, never in their place: no gate asks it. Needs the extra `bayes`.
    """
    from pytest_kvbench.ops.posteriors import inputs_from, make_posterior
    from pytest_kvbench.posterior.draws import Sampling

    found = list(_read(groups, reports, model))
    margins = [group.prepared.experiment.gate.loss for group in found]
    chosen = margin or _one("margin", margins, "--margin M")
    made = make_posterior(inputs_from(found), Sampling(sampler, seed), chosen, target)
    if as_json:
        click.echo(json.dumps(made.analysis, indent=2))
        return
    echo_lines(posterior_lines(made.analysis))
    click.echo(made.folder)


def _read(groups: Sequence[str], reports: Path, model: str | None) -> Iterator[GroupPairs]:
    """What the groups of one model add; of those that nobody named the others are left out."""
    from pytest_kvbench.ops.paired import read_pairs
    from pytest_kvbench.pipeline.group import open_group
    from pytest_kvbench.store.places import group_folders

    read = []
    for folder in [reports / g for g in groups] or group_folders(reports):
        with leaving_out(folder, KvbenchError, named=bool(groups)):
            read.append(read_pairs(open_group(folder)))
    models = sorted({_model(group) for group in read})
    chosen = model or _one("model", models, "--model NAME")
    if chosen not in models:
        raise UsageError(f"--model {chosen}: no group has it", f"they have {', '.join(models)}")
    yield from (group for group in read if _model(group) == chosen)


def _model(group: GroupPairs) -> str:
    return group.prepared.experiment.engine.model


def _one(what: str, values: Sequence[Any], option: str) -> Any:
    distinct = sorted(set(values))
    if not distinct:
        raise MissingPrerequisiteError("no group is there", "run one: kvbench run FILE.yaml")
    if len(distinct) > 1:
        named = ", ".join(map(str, distinct))
        raise UsageError(
            f"the groups have several values of {what}: {named}", f"say which: {option}"
        )
    return distinct[0]


def posterior_lines(analysis: Analysis) -> Iterator[str]:
    """An analysis.json for a terminal."""
    from pytest_kvbench.hints import count
    from pytest_kvbench.ops import doubts

    config = analysis["config"]
    groups = {curve["group"] for curve in config["curves"]}
    answers = sum(curve["pairs"] * len(curve["budgets"]) for curve in config["curves"])
    yield (
        f"{count(answers, 'pair')} in {count(len(config['curves']), 'curve')} of "
        f"{count(len(groups), 'group')}, "
        f"{config['sampling']['sampler']} with seed {config['sampling']['seed']}"
    )
    doubtful = {_arm(d["task"], d["policy"], d["budget"]): d["doubt"] for d in config["doubts"]}
    yield from (f"! {note}" for note in doubts.notes(doubtful.items()))
    for curve in analysis["not_monotone"]:
        yield (
            f"! not monotone: {curve['policy']}, {curve['task']} {curve['low']}-{curve['high']}, "
            f"{curve['group']}: no transition; left out"
        )
    if analysis["problems"]:
        yield f"! not converged, so nothing is said: {'; '.join(analysis['problems'])}"
        return
    yield from _table(analysis["statements"], config["margin"], doubtful)
    yield from _orders(analysis, config["margin"])
    moved = analysis["prior_sensitivity"] or 0.0
    yield (
        f"priors that count 0.8 or 1.25 times move no P by more than {moved:.2f}"
        f"{': they decide, not the answers alone' if moved > _MOVED else ''}"
    )


_MOVED = 0.1
"""A P that other priors move by more is theirs as much as the answers'."""
_SHOWN = 0.1
"""A loss that leaves all answers right as often as this could not be seen in them."""


def _table(
    statements: Sequence[StatementRow], margin: float, doubtful: Mapping[str, str]
) -> Iterator[str]:
    from pytest_kvbench.hints import count

    yield f"P(loss < {margin:g}) by budget; * between rungs, by the curve's shape"
    for s in statements:
        place = s["place"]
        yield f"{s['policy']}, {place['task']}, {place['low']:,} to {place['high']:,} tokens"
        yield "  " + "  ".join(
            f"{b['budget']:.2f}{'*' if b['interpolated'] else ''} {b['below_margin']:.2f}"
            for b in s["budgets"]
        )
        pairs = max(b["pairs"] for b in s["budgets"])
        yield f"  {_transition(s, margin)}; {pairs:,} pairs, from {_shares(s['groups'])}"
        arms = [_arm(place["task"], s["policy"], b["budget"]) for b in s["budgets"]]
        marked = [f"{arm} {doubtful[arm]}" for arm in arms if arm in doubtful]
        if marked:
            yield f"  ! {', '.join(marked)}"
        if (1 - margin) ** pairs > _SHOWN:
            yield (
                f"  ! {count(pairs, 'pair')} alone cannot tell a loss of {margin:g} from none: "
                "the prior and other curves decide"
            )


def _arm(task: str, policy: str, budget: float) -> str:
    return f"{policy} {budget:g} on {task}"


def _transition(statement: StatementRow, margin: float) -> str:
    if statement["interval"] is None:
        return "not monotone by the predictive check: no transition"
    upper, lower = statement["interval"]
    smallest = min(b["budget"] for b in statement["budgets"])
    lost = f"a loss of {margin:g} or more"
    if lower is not None:
        return f"{lost} begins between {upper:g} and {lower:g}, 90% likely"
    if upper == smallest:
        return f"{lost} begins at no measured budget, down to {smallest:g}, 95% likely"
    if upper == 1:
        return f"where {lost} begins is open: at any budget of the ladder, or at none"
    return f"{lost} begins below {upper:g}, or at no measured budget, 90% likely"


def _shares(groups: Mapping[str, float]) -> str:
    return ", ".join(f"{group} ({share:.0%})" for group, share in sorted(groups.items()))


def _orders(analysis: Analysis, margin: float) -> Iterator[str]:
    """Policies by loss, each beside the one before it, where more than one was measured."""
    sure = {
        (*_place(c), c["budget"], *pair): (better, c["alike"])
        for c in analysis["comparisons"]
        for pair, better in _both_ways(c)
    }
    losses: dict[tuple[Any, ...], dict[str, float]] = {}
    for s in analysis["statements"]:
        for b in s["budgets"]:
            losses.setdefault((*_place(s), b["budget"]), {})[s["policy"]] = b["loss"]
    lines = [line for place, by in losses.items() if (line := _order(place, by, sure))]
    if lines:
        yield f"who loses less (P that the next loses more, P that both differ by below {margin:g})"
        yield from lines


def _order(
    place: tuple[Any, ...],
    losses: Mapping[str, float],
    sure: Mapping[tuple[Any, ...], tuple[float, float]],
) -> str:
    """One line, or nothing where no two policies were measured."""
    ranked = sorted(losses, key=lambda policy: losses[policy])
    found = [(pair[1], sure.get((*place, *pair))) for pair in itertools.pairwise(ranked)]
    named = [f"{after} ({p[0]:.2f}, {p[1]:.2f})" for after, p in found if p]
    task, low, high, budget = place
    start = f"  {task} {low:,}-{high:,} at {budget:g}: "
    return start + ", ".join([ranked[0], *named]) if named else ""


def _place(row: StatementRow | ComparisonRow) -> tuple[str, int, int]:
    return row["place"]["task"], row["place"]["low"], row["place"]["high"]


def _both_ways(c: ComparisonRow) -> Iterator[tuple[tuple[str, str], float]]:
    yield (c["first"], c["second"]), c["better"]
    yield (c["second"], c["first"]), 1 - c["better"]
