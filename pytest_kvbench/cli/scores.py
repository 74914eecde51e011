"""Scores that come from anywhere, and examples as they are asked: no group is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from pytest_kvbench.cli import given, options
from pytest_kvbench.cli.lines import echo_lines
from pytest_kvbench.errors import KvbenchError, UsageError
from pytest_kvbench.records import ReasoningRule

if TYPE_CHECKING:
    from pytest_kvbench.analyse.rules import Correction
    from pytest_kvbench.rows import Summary


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path), required=False)
@click.option("--control", type=click.Path(path_type=Path), help="Results of the full cache.")
@click.option("--treated", type=click.Path(path_type=Path), help="Results of the smaller one.")
@click.option("--metric", default="", help="Of a file with several (default: its first).")
@click.option("--task", default="", help="Whose metric scores replies that have no score.")
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.10,
    show_default=True,
    help="The loss one can live with.",
)
@options.alpha
@click.option(
    "--correction",
    type=click.Choice(["holm", "bh", "none"]),
    default="holm",
    show_default=True,
    help="Over all cells of the call.",
)
@options.as_json
def judge(
    pairs: Path | None,
    control: Path | None,
    treated: Path | None,
    metric: str,
    task: str,
    margin: float,
    alpha: float,
    correction: Correction,
    as_json: bool,
) -> None:
    """Judge a CSV of paired scores, or two sides' result files or folders.

    Columns of the CSV: task, bin, policy, budget, example_id, cluster, control, treated; and, where
    wanted, variant, measure (score, overlap, same_top, prefix), control_high and treated_high (of
    scores known between bounds, the most). With --control and --treated: samples of lm-eval, logs
    of Inspect (.eval, .json), kvpress's predictions.csv, rows with a score, or our own groups,
    baselines and cards (the full cache of one, the arms of the other); joined by example, nothing
    is asked.
    """
    from pytest_kvbench.analyse.judge import judge_pairs
    from pytest_kvbench.cli.pairs import joined, read_pairs, side_lines
    from pytest_kvbench.report import terminal_lines

    if control is not None and treated is not None and pairs is None:
        table = joined(control, treated, metric, task)
        judged = judge_pairs(table, margin=margin, alpha=alpha, correction=correction)
        if as_json:
            click.echo(json.dumps(judged, indent=1, ensure_ascii=False))
            return
        echo_lines(side_lines(judged, margin))
        return
    if pairs is None or control is not None or treated is not None:
        raise UsageError(
            "judge takes a CSV of pairs, or two sides",
            "valid: kvbench judge pairs.csv, or kvbench judge --control A --treated B",
        )
    table = read_pairs(pairs)
    try:
        judged = judge_pairs(table, margin=margin, alpha=alpha, correction=correction)
    except UsageError as error:
        raise UsageError(f"{pairs}: {error.what}", error.hint) from None
    if as_json:
        click.echo(json.dumps(judged, indent=1, ensure_ascii=False))
    else:
        rules = {"margin": margin, "alpha": alpha}
        summary: Summary = {
            "group": str(pairs),
            "experiment": {"gate": {**rules, "divergence": rules}},
            "cells": judged["cells"],
            "transitions": judged["transitions"],
        }
        echo_lines(terminal_lines(summary))


@click.command("score-file")
@click.argument("task")
@click.argument("predictions", type=click.Path(path_type=Path))
@click.option("--metric", help="Instead of the task's own, as task_options.TASK.metric.")
@click.option(
    "--reasoning",
    type=click.Choice(get_args(ReasoningRule)),
    default="strip",
    show_default=True,
    help="What becomes of thoughts in a reply, as sampling.reasoning.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def score_file(
    task: str, predictions: Path, metric: str | None, reasoning: ReasoningRule, as_json: bool
) -> None:
    """Score anybody's PREDICTIONS (JSON lines or CSV) with a TASK's metric.

    A line holds prediction and answers, and all_classes where the metric needs them. Files of
    LongBench, LongBench v2, RULER, kvpress and lm-eval (samples) are read as they are.
    """
    from pytest_kvbench.tasks.predictions import score_file as scored

    extra = given.tasks(predictions.parent)
    options = {"metric": metric} if metric else {}
    for line in scored(task, predictions, options=options, extra=extra, rule=reasoning):
        click.echo(json.dumps(line) if as_json else f"{line['score']:.4f} {line['label']}".rstrip())


def _counting() -> str:
    """The embedded model's tokenizer; an estimate where it is not installed."""
    from pytest_kvbench import extras
    from pytest_kvbench.experiment.engine import EngineSettings
    from pytest_kvbench.server import weights

    try:
        weights.resolve(EngineSettings().model)
    except KvbenchError:
        return "approximate"
    return "approximate" if extras.lacking(extras.CONVERTING) else "auto"


@click.command()
@click.argument("task")
@click.option("--index", default=0, show_default=True, help="Which of the selected examples.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="As in an experiment.")
def inspect(task: str, index: int, sets: tuple[str, ...]) -> None:
    """Show an example of a TASK, its prompt as sent, and its token counts."""
    from pytest_kvbench.pipeline import plan
    from pytest_kvbench.pipeline.prepare import bin_spec, tokenizer_of
    from pytest_kvbench.tasks.registry import get_task
    from pytest_kvbench.tasks.show import show_task

    inline = {"group": "inspect", "tasks": [task], "tokenizer": _counting()}
    from pytest_kvbench.pipeline.declared import load_experiment

    declared = load_experiment(
        None, inline=inline, overrides=given.overrides(sets), inline_source="kvbench inspect"
    )
    site = given.site(Path())
    plan.check(declared, site.tasks)
    experiment = declared.experiment
    for line in show_task(
        get_task(task, options=experiment.options_of(task), extra=site.tasks),
        bin_spec(experiment),
        tokenizer_of(experiment, site),
        experiment.sampling.seed,
        index=index,
    ):
        click.echo(line)
