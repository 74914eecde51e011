"""From stored answers to `summary.json` and the report."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.files import replace_json
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.group import Prepared, Site, open_group
from pytest_kvbench.pipeline.judge import Judge, judge
from pytest_kvbench.pipeline.observe import missing_cells, observations
from pytest_kvbench.pipeline.rounds import drawn_so_far
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Cell, Request, canonical
from pytest_kvbench.store.controls import control_key
from pytest_kvbench.store.store import Store

SUMMARY = "summary.json"


def analyse(prepared: Prepared, judge_with: Judge | None = None) -> dict[str, Any]:
    """Judge everything stored for the plan; store it, write `summary.json`, return the summary.

    Where nothing changed that it depends on, the summary that is there is returned.

    Args:
        prepared: the group.
        judge_with: judges in place of `judge`, which loads pandas.

    Raises:
        MissingPrerequisiteError: no answer, or an answer without a score.
    """
    from pytest_kvbench.report.summary import build_summary, failure_messages

    group = prepared.experiment.group
    most = prepared.requests()
    with Store(prepared.database) as store:
        planned = drawn_so_far(prepared, store, most)
        rows = observations(prepared, store, planned)
        if not rows:
            raise MissingPrerequisiteError(
                f"group {group}: nothing has been answered yet",
                f"run it: {command('run', prepared.folder)}",
            )
        unscored = sum(row["text"] is not None and row["score"] is None for row in rows)
        if unscored:
            raise MissingPrerequisiteError(
                f"group {group}: {unscored} answers have no score",
                f"score them: {command('score', prepared.folder)}",
            )
        inputs = _inputs(prepared, planned, rows)
        known = _summary_of(prepared)
        if known is not None and known["provenance"].get("inputs") == inputs:
            return known
        judged = votes(rows, prepared.experiment, prepared.manifests)
        if not judged:
            raise MissingPrerequisiteError(
                f"group {group}: no vote has all its samples yet",
                f"run it: {command('run', prepared.folder)}",
            )
        analysis = (judge_with or judge)(prepared.experiment, judged)
        store.save_analysis(analysis.bin_stats, analysis.cells, analysis.transitions)
        runs = store.runs()
    summary = build_summary(
        prepared.experiment.snapshot(),
        prepared.manifests,
        asdict(analysis),
        judged,
        missing_cells(planned, rows),
        runs[-1],
    )
    summary["integrity"]["messages"] = failure_messages(rows)
    summary["provenance"]["inputs"] = inputs
    summary["provenance"]["controls"] = _controls_used(planned, rows)
    if prepared.experiment.sequential:
        summary["sampling"] = {"wanted": len(planned), "most": len(most)}
        summary["integrity"]["notes"].append(_spared(len(planned), len(most)))
    replace_json(prepared.folder / SUMMARY, summary)
    return summary


def _controls_used(
    planned: Sequence[tuple[Cell, Request]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of every cell group: the shared control of its arms, and whose answers it is made of."""
    origins = {row["key"]: row["origin"] for row in rows}
    used: dict[plan.CellGroup, dict[str, Any]] = {}
    for cell, request in planned:
        if not cell.is_control or request.aa:
            continue
        group = plan.CellGroup.of(cell)
        name = f"{control_key(request.arm)}/{group.control_id}"
        counts = used.setdefault(group, {**asdict(group), "control": name} | _NONE_YET)
        origin = origins.get(request.key)
        counts["produced"] += origin == "engine"
        counts["reused"] += origin == "shared-control"
    return list(used.values())


_NONE_YET = {"produced": 0, "reused": 0}


def _spared(wanted: int, most: int) -> str:
    return (
        f"sequential sampling: {wanted} of at most {most} requests ({wanted / most:.0%}) were "
        "wanted; intervals are betting confidence sequences, valid however often one looks."
    )


def _inputs(
    prepared: Prepared,
    planned: Sequence[tuple[Cell, Request]],
    rows: Sequence[Mapping[str, Any]],
) -> str:
    """Digest of all that an analysis depends on; texts and telemetry come with an answer's key."""
    told = ("key", "score", "em", "label", "failure", "message", "proof", "cluster", "parts")
    version = importlib.metadata.version("pytest-kvbench")
    whole = hashlib.sha256(canonical([version, prepared.experiment.snapshot()]))
    for _, request in planned:
        whole.update(request.key.encode())
    for row in rows:
        whole.update(canonical([row[name] for name in told]))
    return whole.hexdigest()[:16]


def _summary_of(prepared: Prepared) -> dict[str, Any] | None:
    """What `summary.json` holds; None where there is none that can be read."""
    try:
        summary = json.loads((prepared.folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(summary, dict) and isinstance(summary.get("provenance"), dict)
    return summary if whole else None


def broken_before(
    declared: Declared, site: Site, judge_with: Judge | None = None
) -> dict[str, tuple[str, ...]]:
    """What broke in the experiment that this one comes `after`; nothing where it follows none.

    Raises:
        MissingPrerequisiteError: that one was not run.
    """
    before = declared.experiment.after
    if before is None:
        return {}
    return broken_arms(open_group(site.reports / before, site.tasks), judge_with)


def broken_arms(prepared: Prepared, judge_with: Judge | None = None) -> dict[str, tuple[str, ...]]:
    """By task: the arms that broke over all bins, in every variant.

    Raises:
        MissingPrerequisiteError: nothing was answered there.
    """
    with Store(prepared.database) as store:
        score(store, [request.key for _, request in prepared.requests()])
    cells = [cell for cell in analyse(prepared, judge_with)["cells"] if cell["verdict"]]
    pooled = [cell for cell in cells if cell["bin"] == "all"] or cells
    verdicts: dict[tuple[str, str], set[str]] = {}
    for cell in pooled:
        arm = (cell["task"], plan.arm_name(cell["policy"], cell["budget"]))
        verdicts.setdefault(arm, set()).add(cell["verdict_holm"])
    broken = [arm for arm, words in verdicts.items() if words == {"breaks"}]
    return {
        task: tuple(name for of, name in broken if of == task)
        for task in prepared.experiment.tasks
        if any(of == task for of, _ in broken)
    }


def report(prepared: Prepared, folder: Path | None = None) -> Path:
    """Write report and plots from the group's `summary.json`; the report's path.

    Raises:
        MissingPrerequisiteError: the group has not been analysed.
    """
    from pytest_kvbench.report import write_report

    summary = _summary_of(prepared)
    if summary is None:
        group = prepared.experiment.group
        raise MissingPrerequisiteError(
            f"group {group}: there is no {SUMMARY}",
            f"make it: {command('analyse', prepared.folder)}",
        )
    return write_report(folder or prepared.folder, summary)


def judged_on(prepared: Prepared) -> str:
    """Digest of what the present `summary.json` was made from; empty where there is none."""
    summary = _summary_of(prepared)
    return str(summary["provenance"].get("inputs", "")) if summary else ""


def is_reported(prepared: Prepared, folder: Path | None = None) -> bool:
    """Whether the report that is there is that of the present `summary.json`."""
    path, inputs = (folder or prepared.folder) / "report.md", judged_on(prepared)
    return bool(inputs) and path.is_file() and inputs in path.read_text(encoding="utf-8")
