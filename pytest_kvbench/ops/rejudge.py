"""What stored answers say under other rules. Asks no model, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.ops.stored_plan import observed
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.observe import missing_cells
from pytest_kvbench.report.summary import build_summary

Failures = Literal["drop", "zero"]
"""What becomes of a request without a reply: its pair is dropped, or it scores 0."""


def rejudge(
    prepared: Prepared, experiment: Experiment, failures: Failures = "drop"
) -> dict[str, Any]:
    """The summary of a group under the `gate` of another experiment.

    Args:
        prepared: the group.
        experiment: the group's own, but for its `gate`.
        failures: how requests without a reply count.

    Raises:
        UsageError: more than the gate differs.
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    _refuse_other_keys(prepared.experiment, experiment)
    prepared = replace(prepared, experiment=experiment)
    seen = observed(prepared)
    judged = _as_zero(seen.judged) if failures == "zero" else seen.judged
    return build_summary(
        experiment.snapshot(),
        prepared.manifests,
        asdict(judge(experiment, judged)),
        judged,
        missing_cells(seen.planned, seen.rows),
        seen.run,
    )


def _refuse_other_keys(stored: Experiment, wanted: Experiment) -> None:
    was, is_ = stored.snapshot(), wanted.snapshot()
    other = [key for key in was if key != "gate" and was[key] != is_[key]]
    if other:
        raise UsageError(
            f"{', '.join(other)} of a stored group cannot be set: the answers depend on it",
            "valid: keys of gate, as in gate.margin=0.2",
        )


def _as_zero(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    nothing = {"score": 0.0, "em": 0.0, "failure": "", "text": ""}
    return [{**row, **nothing} if row["failure"] else row for row in rows]
