"""What stored answers say under other rules. Asks no model, writes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.observation import Observations, Outcome
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import Judge, judge
from pytest_kvbench.pipeline.observe import missing_cells
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.report.summary import build_summary
from pytest_kvbench.rows import Summary

Failures = Literal["drop", "zero"]
"""What becomes of a request without a reply: its pair is dropped, or it scores 0."""


def dry_run(
    prepared: Prepared, gate: Gate, failures: Failures = "drop", judge_with: Judge = judge
) -> Summary:
    """The summary of a group under another `gate`.

    Args:
        prepared: the group.
        gate: the rules.
        failures: how requests without a reply count.
        judge_with: judges in place of `judge`, which loads pandas.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    experiment = prepared.experiment.model_copy(update={"gate": gate})
    stored = observed(replace(prepared, experiment=experiment))
    judged = _as_zero(stored.judged) if failures == "zero" else stored.judged
    analysis = judge_with(experiment, judged)
    return build_summary(
        experiment.snapshot(),
        prepared.manifests,
        analysis,
        judged.where(lambda one: not prepared.is_beside(one.cell)),
        missing_cells(prepared, stored.planned, stored.rows, analysis.cells),
        stored.run,
    )


def _as_zero(judged: Observations) -> Observations:
    return Observations(one._replace(outcome=_zero(one.outcome)) for one in judged)


def _zero(outcome: Outcome) -> Outcome:
    if not outcome.failure:
        return outcome
    return outcome._replace(score=0.0, em=0.0, failure="", text="")
