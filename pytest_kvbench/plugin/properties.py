"""An item's verdict as plain properties: in JUnit XML, and on the reports the controller sees.

Judging imports numpy and scipy: a process does it only where somebody will look.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_kvbench.plugin.arm import JudgedArm
    from pytest_kvbench.plugin.verdict import Comparison

PREFIX = "kvbench_"
VERDICT = f"{PREFIX}verdict"

Property = tuple[str, object]


def properties_of(judged: Comparison | JudgedArm) -> list[Property]:
    """What JUnit XML says of a measured item; an arm is certified, or not."""
    from pytest_kvbench.plugin.arm import JudgedArm

    facts = _of_arm(judged) if isinstance(judged, JudgedArm) else _of_cell(judged)
    return [(PREFIX + name, value) for name, value in facts.items()]


def _of_arm(arm: JudgedArm) -> dict[str, object]:
    row = arm.certificate
    return {
        "task": row["task"],
        "bin": row["bin"],
        "policy": row["policy"],
        "budget": row["budget"],
        "delta": row["delta"],
        "ci_low": row["ci_low"],
        "ci_high": row["ci_high"],
        "certified": row["certified"],
    }


def _of_cell(comparison: Comparison) -> dict[str, object]:
    """A control has a mean and no verdict.

    `kvbench_verdict` is the item's own, at Bonferroni's alpha / m; `kvbench_doubt` is there where
    nothing proves that it is one on a smaller cache.
    """
    cell = comparison.cell
    facts: dict[str, object] = {
        "task": cell.cell.task,
        "bin": cell.cell.bin,
        "policy": cell.cell.policy,
        "budget": cell.cell.budget,
        "proof": cell.proof,
        "n": len(comparison.paired),
        "lost": comparison.lost,
        "score": cell.mean,
    }
    if not cell.is_control:
        result = comparison.result
        facts |= {
            "n": result.n,
            "control_score": result.control_mean,
            "delta": result.delta,
            "ci_low": result.ci_low,
            "ci_high": result.ci_high,
            "margin": cell.gate.loss,
            "verdict": result.verdict,
        }
        doubtful = cell.proof in ("unverified", "simulated")
        if doubtful and result.verdict in ("holds", "breaks"):
            facts["doubt"] = cell.proof
    return facts


def note_on_suite(config: pytest.Config, facts: Iterable[tuple[str, str]]) -> None:
    """Add facts to JUnit XML, where one is asked for: written before they were known, it is anew.

    Its plugin writes at the end of the session, as verdicts are made.
    """
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in facts:
            xml.add_global_property(PREFIX + name, value)
        xml.pytest_sessionfinish()


def progress_wanted(config: pytest.Config) -> bool:
    """Whether anybody can see a progress line: not under -q, nor where there is no reporter."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly or config.option.kvbench_plan:
        return False
    verbose: int = config.option.verbose
    # Under -s tests write to the terminal too, and nobody knows where the cursor is.
    redraws = reporter.isatty and config.option.capture != "no" and "CI" not in os.environ
    return verbose >= 0 and (redraws or (verbose > 0 and not reporter.isatty))


def verdicts_wanted(config: pytest.Config) -> bool:
    """Whether items are to say their verdicts; a worker was told by its controller."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is not None:
        return bool(worker["kvbench_verdicts"])
    return bool(getattr(config.option, "xmlpath", None)) or progress_wanted(config)


def verdict_on(report: pytest.TestReport) -> str | None:
    """The verdict that a report carries, if it does."""
    found = dict(report.user_properties).get(VERDICT)
    return None if found is None else str(found)
