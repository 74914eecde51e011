"""From stored answers to `summary.json`, a comparison with a baseline, and the report.

`conclude` is what plugin and command line do at the end of a run; its stages are commands too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench import hints
from pytest_kvbench.distances import Moved
from pytest_kvbench.errors import KvbenchError, MissingPrerequisiteError
from pytest_kvbench.files import replace_json
from pytest_kvbench.hints import command
from pytest_kvbench.observation import Observations, failures_of
from pytest_kvbench.pipeline import asked_again
from pytest_kvbench.pipeline.drawn import drawn_of
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.judge import Judge
from pytest_kvbench.pipeline.judge_process import judge_apart
from pytest_kvbench.pipeline.observe import TOGETHER, missing_cells, observations
from pytest_kvbench.pipeline.provenance import controls_used, inputs_of
from pytest_kvbench.pipeline.score import score
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Cell, Request, digest
from pytest_kvbench.rows import Summary
from pytest_kvbench.store.store import Store

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.compare import Comparison

SUMMARY = "summary.json"
REPORT = "report.md"


@dataclass(frozen=True)
class Wishes:
    """What is wanted beside verdicts.

    `report`: the report; `folder`: where, None is the group's own. `compare`, `save`: the names of
    baselines. `figures`: formats of figures for a paper, beside the report.
    """

    report: bool = False
    folder: Path | None = None
    compare: str | None = None
    save: str | None = None
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Analysed:
    """A summary, the observations that were judged, and whether it is another one than before."""

    summary: Summary
    judged: Observations
    changed: bool


@dataclass(frozen=True)
class Conclusion:
    """What a group came to.

    `scored`: answers that had no score. `changed`: whether the summary was made now. `comparison`:
    with the baseline; `uncompared`: why it could not be. `report`, `saved`: files,
    where wanted; `lacking`: saved cells not measured; `kept`: why a baseline was kept.
    """

    scored: int
    summary: Summary
    changed: bool
    comparison: Comparison | None = None
    uncompared: KvbenchError | None = None
    report: Path | None = None
    saved: Path | None = None
    lacking: str = ""
    kept: str = ""


_VERDICTS_ALONE = Wishes()


def conclude(
    prepared: Prepared, wishes: Wishes = _VERDICTS_ALONE, judge_with: Judge | None = None
) -> Conclusion:
    """Score, analyse, compare with a baseline, save one, report: each once.

    Args:
        prepared: the group.
        wishes: what is wanted beside verdicts.
        judge_with: as `analyse` takes it.

    Raises:
        MissingPrerequisiteError: nothing was answered.
    """
    scored = score_plan(prepared)
    analysed = analyse(prepared, judge_with)
    done = Conclusion(scored, analysed.summary, analysed.changed)
    if wishes.compare or wishes.save:
        done = _against(prepared, analysed, wishes, done)
    if wishes.report:
        folder = wishes.folder or prepared.folder
        current = not analysed.changed and _reports(folder / REPORT, analysed.summary)
        written = folder / REPORT
        if wishes.figures or not current:
            report(prepared, analysed.summary, folder, wishes.figures)
        done = replace(done, report=written)
    return done


def _against(
    prepared: Prepared, analysed: Analysed, wishes: Wishes, done: Conclusion
) -> Conclusion:
    """Compare with a baseline, then save one: of the same name only where nothing is amiss.

    Else the next run would be compared with the damage. Under another name all is saved.
    """
    from pytest_kvbench.pipeline.baseline import baseline_file, save_baseline, side_from, unmeasured
    from pytest_kvbench.pipeline.compare import against, why_kept

    reports = prepared.folder.parent
    side = side_from(prepared, analysed.judged, analysed.summary["cells"])
    if wishes.compare:
        try:
            done = replace(done, comparison=against(reports, wishes.compare, side))
        except KvbenchError as error:
            done = replace(done, uncompared=error)
    if not wishes.save:
        return done
    lacking, file = unmeasured(side), baseline_file(reports, wishes.save, side.name)
    why = why_kept(done.comparison, lacking, partial=done.summary["partial"])
    if file.exists() and wishes.save == wishes.compare and why:
        return replace(done, kept=f"baseline {wishes.save} is kept as it was: {why}")
    return replace(done, saved=save_baseline(side, reports, wishes.save), lacking=lacking)


def score_plan(prepared: Prepared) -> int:
    """Score the plan's answers that have no score yet; how many there were.

    Raises:
        MissingPrerequisiteError: nothing was answered.
    """
    keys = prepared.requests().keys
    with Store(prepared.database) as store:
        some = (keys[at : at + TOGETHER] for at in range(0, len(keys), TOGETHER))
        if not any(map(store.settled, some)):
            raise _unanswered(prepared)
        return score(store, keys, prepared.experiment)


def _unanswered(prepared: Prepared) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"group {prepared.experiment.group}: nothing has been answered yet",
        f"run it: {command('run', prepared.folder)}",
    )


def analyse(prepared: Prepared, judge_with: Judge | None = None) -> Analysed:
    """Judge everything stored for the plan; store it, write `summary.json`.

    Where nothing changed that it depends on, the summary that is there is returned.

    Args:
        prepared: the group.
        judge_with: judges in place of `judge_apart`, which loads pandas.

    Raises:
        MissingPrerequisiteError: no answer, or an answer without a score.
    """
    group = prepared.experiment.group
    most = prepared.requests()
    with Store(prepared.database) as store:
        planned, rows = drawn_of(prepared, most, observations(prepared, store, most))
        if not rows:
            raise _unanswered(prepared)
        unscored = sum(row.outcome.is_unscored for row in rows)
        if unscored:
            raise MissingPrerequisiteError(
                f"group {group}: {hints.count(unscored, 'answer')} {hints.have(unscored)} no score",
                f"score them: {command('score', prepared.folder)}",
            )
        since = asked_again.answers_since(store.runs())
        inputs = inputs_of(prepared, planned, rows, since)
        judged = votes(rows, prepared.experiment, prepared.manifests)
        listed = judged.where(lambda one: not prepared.is_beside(one.cell))
        stored = summary_of(prepared)
        if stored is not None and stored["provenance"].get("inputs") == inputs:
            asked_again.settle(store, is_complete=not stored["missing"])
            return Analysed(stored, listed, changed=False)
        if not judged:
            raise MissingPrerequisiteError(
                f"group {group}: no vote has all its samples yet",
                f"run it: {command('run', prepared.folder)}",
            )
        analysis = (judge_with or judge_apart)(prepared.experiment, judged)
        missing = missing_cells(prepared, planned, rows, analysis.cells)
        runs = asked_again.settle(store, is_complete=not missing)
        store.save_analysis(analysis.bin_stats, analysis.cells, analysis.transitions)
        reached = store.throughput(runs[-1].run_id)
        far = _moved(prepared, store, planned)
        from pytest_kvbench.report.failed import failure_messages
        from pytest_kvbench.report.summary import build_summary

        summary = build_summary(
            prepared.experiment.snapshot(),
            prepared.manifests,
            analysis,
            listed,
            missing,
            runs[-1],
            lambda one: store.answers([one.outcome.key])[one.outcome.key].text,
        )
    if prepared.experiment.engine.mode == "live":  # replies of a batch all come at once
        summary["efficiency"]["throughput"] = reached
    summary["integrity"]["messages"] = failure_messages(failures_of(rows))
    provenance = summary["provenance"]
    provenance["inputs"] = inputs
    provenance["controls"] = controls_used(planned, rows)
    if since is not None:
        provenance["answers_since"] = since
    if far is not None:
        summary["moved"] = far
    if prepared.experiment.sequential:
        summary["sampling"] = {"wanted": len(planned), "most": len(most)}
        summary["integrity"]["notes"].append(_spared(len(planned), len(most)))
    sealed = sealed_summary(summary)
    replace_json(prepared.folder / SUMMARY, sealed)
    return Analysed(sealed, listed, changed=True)


def _moved(
    prepared: Prepared, store: Store, planned: Sequence[tuple[Cell, Request]]
) -> Moved | None:
    """How far distributions moved; None where none was compared."""
    if not prepared.experiment.diverges:
        return None
    from pytest_kvbench.pipeline.moved import moved, words_of

    return moved(store, planned, prepared.sent, words_of(prepared.experiment))


def sealed_summary(summary: Summary) -> Summary:
    """A summary as readers of the file have it, with a checksum of all else in it."""
    read: Summary = json.loads(json.dumps(summary, sort_keys=True))
    return {**read, "checksum": digest(read)}


def _is_sealed(summary: Mapping[str, object]) -> bool:
    """Whether nothing was altered, so that it has the shape that its readers count on."""
    rest = dict(summary)
    return bool(rest.pop("checksum") == digest(rest))


def _spared(wanted: int, most: int) -> str:
    return (
        f"sequential sampling: {wanted} of at most {most} requests ({wanted / most:.0%}) were "
        "wanted; intervals are betting confidence sequences, valid however often one looks."
    )


def summary_of(prepared: Prepared) -> Summary | None:
    """What `summary.json` holds; None where it is not there as `analyse` wrote it."""
    try:
        summary = json.loads((prepared.folder / SUMMARY).read_text(encoding="utf-8"))
        return summary if _is_sealed(summary) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def report(
    prepared: Prepared,
    summary: Summary | None = None,
    folder: Path | None = None,
    figures: tuple[str, ...] = (),
) -> Path:
    """Write report and plots; the report's path. Elsewhere, a copy of the summary beside it.

    Args:
        prepared: the group.
        summary: its summary; by default what `summary.json` holds.
        folder: where, by default in the group's own.
        figures: formats of figures for a paper.

    Raises:
        MissingPrerequisiteError: the group has not been analysed.
    """
    from pytest_kvbench.pipeline.browse import answers_page
    from pytest_kvbench.report import write_report

    summary = summary or summary_of(prepared)
    if summary is None:
        raise unsummarised(prepared)
    folder = folder or prepared.folder
    if folder != prepared.folder:
        replace_json(folder / SUMMARY, summary)
    return write_report(
        folder, summary, page=answers_page(prepared, summary["cells"]), figures=figures
    )


def unsummarised(prepared: Prepared) -> MissingPrerequisiteError:
    """The refusal of a group that has not been analysed."""
    return MissingPrerequisiteError(
        f"group {prepared.experiment.group}: there is no {SUMMARY}"
        + (" as it was written" if (prepared.folder / SUMMARY).exists() else ""),
        f"make it: {command('analyse', prepared.folder)}",
    )


def _reports(path: Path, summary: Summary) -> bool:
    """Whether the report that is there is that of a summary."""
    inputs = str(summary["provenance"].get("inputs", ""))
    return bool(inputs) and path.is_file() and inputs in path.read_text(encoding="utf-8")
