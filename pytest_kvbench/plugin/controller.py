"""The controlling process: collects reports of items, and ends with verdicts and exit status.

Under xdist it holds no items; all it learns is plain data on the reports. Everything it says it
reads from the groups' databases.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvbench.errors import INTERRUPTED, InfrastructureError
from pytest_kvbench.files import run_folder
from pytest_kvbench.hints import command
from pytest_kvbench.plugin.noticed import Noticed
from pytest_kvbench.plugin.options import (
    CONTROLLER,
    NOT_LOADED,
    RUNTIME,
    Options,
    refuse_swallowed_path,
    refuse_unknown_baseline,
)
from pytest_kvbench.plugin.properties import note_on_suite, progress_wanted
from pytest_kvbench.plugin.scope import group_of, without_scope

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.conclude import Conclusion, Wishes
    from pytest_kvbench.pipeline.ending import Reason
    from pytest_kvbench.pipeline.judge_process import Analyst
    from pytest_kvbench.rows import Summary

PROGRESS = "kvbench-progress"
REGISTRY_KEY = "kvbench/control_registry"

_DECIDED_HERE = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
"""The others are pytest's own: interrupted, nothing collected."""


@dataclass(frozen=True)
class _Result:
    """One group's results, or the problem that left none; `reasons` of an exit status other than 0.

    `against` is what --kvbench-save and --kvbench-compare made of it.
    """

    group: str
    summary: Summary | None
    files: tuple[Path, ...] = ()
    problem: str = ""
    idle: str = ""
    against: Sequence[str] = ()
    reasons: Sequence[Reason] = ()


class Controller:
    """The controlling side of a session; loads nothing heavy before a kvbench item ran."""

    NAME = CONTROLLER

    def __init__(self, config: pytest.Config, run_id: str) -> None:
        refuse_swallowed_path(config)
        refuse_unknown_baseline(config)
        self._config = config
        self._run_id = run_id
        self._noticed = Noticed()
        self._expected: set[str] = set()
        self._ran: set[str] = set()
        self._lost_worker = False
        self._interrupted = False
        self._results: list[_Result] = []
        self._last_lines: Sequence[str] = ()

    @cached_property
    def analyst(self) -> Analyst:
        """The process that judges at the end, made when first needed."""
        from pytest_kvbench.pipeline.judge_process import Analyst

        return Analyst()

    # -- what will run ---------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the selected kvbench items, where this process runs them itself."""
        if not self._config.pluginmanager.has_plugin(RUNTIME):
            return
        from pytest_kvbench.plugin.declaration import declaration_of

        selected: dict[str, list[str]] = {}
        for item in session.items:
            declaration = declaration_of(item)
            if declaration is not None:
                group = declaration.declared.experiment.group
                selected.setdefault(group, []).append(item.nodeid)
        self._expect(selected)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note the selected kvbench items by the ids that an xdist worker reports."""
        selected: dict[str, list[str]] = {}
        for nodeid in ids:
            group = group_of(nodeid)
            if group:
                selected.setdefault(group, []).append(without_scope(nodeid))
        self._find_tasks(nodeid for nodeids in selected.values() for nodeid in nodeids)
        self._expect(selected)

    def _find_tasks(self, nodeids: Iterable[str]) -> None:
        """Find the tasks of conftest files that only workers have loaded."""
        from pytest_kvbench.own.classes import ask_before
        from pytest_kvbench.plugin.project import conftest_tasks
        from pytest_kvbench.tasks.project import ProjectTasks

        files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in nodeids)
        folders = [Path(self._config.rootpath, file).parent for file in files]
        self._config.stash[NOT_LOADED] = found = ProjectTasks(folders, conftest_tasks)
        ask_before(found.load)

    def _expect(self, selected: Mapping[str, Sequence[str]]) -> None:
        """Prepare for items that will run: warm the judge up, and show a progress line."""
        if not selected:  # options may be what is wrong, and were refused already
            return
        self._expected.update(*selected.values())
        reports = Options.of(self._config).reports
        idle = self._config.option.collectonly or self._config.option.kvbench_plan
        if not idle and any(not (reports / group / "summary.json").exists() for group in selected):
            self.analyst.warm()  # a group that was never judged will be
        manager = self._config.pluginmanager
        if manager.has_plugin(PROGRESS) or not progress_wanted(self._config):
            return
        from pytest_kvbench.plugin.progress import ProgressLine

        manager.register(ProgressLine(self._config, self._run_id, selected), PROGRESS)

    # -- what ran --------------------------------------------------------------------------

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record an error that a user made in a declaration."""
        self._noticed.collected(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record which groups ran, and the kind of each failure."""
        report.nodeid = without_scope(report.nodeid)
        self._ran.add(report.nodeid)
        self._noticed.ran(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Record a crashed worker: it says nothing about quality."""
        self._noticed.crashed(crashitem, report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object | None) -> None:
        """Record a worker that ended with an error."""
        self._lost_worker |= error is not None

    # -- the plan --------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Under --kvbench-plan: print and run nothing."""
        if not self._config.option.kvbench_plan or session.testsfailed:
            return None
        from pytest_kvbench.plugin.planning import plan_lines

        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        for line in plan_lines(session.items, Options.of(self._config)):
            reporter.write_line(line)
        return True

    def pytest_keyboard_interrupt(self) -> None:
        """Say after Ctrl-C what is left of the run."""
        if self._expected:
            self._last_lines = [f"kvbench: {INTERRUPTED}"]

    # -- the end ---------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop servers, analyse, report, and set the exit status."""
        if self._noticed.mistaken and exitstatus != pytest.ExitCode.OK:
            self._end(session, self._noticed.mistakes())
            return
        self._interrupted = exitstatus not in _DECIDED_HERE
        run_id = self._run_id
        if run_folder(run_id).exists():
            from pytest_kvbench.engines import stop_all

            stop_all(run_folder(run_id))
        # xdist itself says OK, or that there are no tests, where nobody was left to run them.
        if self._lost_worker and not self._expected <= self._ran:
            self._noticed.worker_lost()
        elif self._lost_worker and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            self._noticed.none_collected(self._config)
            exitstatus = pytest.ExitCode.OK if self._noticed.is_ours else exitstatus
        if self._noticed.wanted:
            options = Options.of(self._config)
            self._results = [self._finish(g, options, run_id) for g in self._noticed.wanted]
            self._mirror_registry()
        if self._noticed.is_ours and exitstatus in _DECIDED_HERE:
            concluded = [reason for result in self._results for reason in result.reasons]
            self._end(session, self._noticed.reasons(concluded))

    def _end(self, session: pytest.Session, reasons: Iterable[Reason]) -> None:
        """Set the exit status, and keep the lines that explain it for the end of the output."""
        from pytest_kvbench.pipeline.ending import last_lines, status_of

        every = list(reasons)
        session.exitstatus = status_of(every) or session.exitstatus
        self._last_lines = last_lines(every)

    def pytest_unconfigure(self) -> None:
        """End the judging process and print the last lines, also after an interrupted session."""
        if "analyst" in self.__dict__:
            self.analyst.close()
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        for line in self._last_lines if reporter else ():
            reporter.write_line(line)

    def _finish(self, group: str, options: Options, run_id: str) -> _Result:
        from pytest_kvbench.batch.ledger import Ledger, strange, waiting_for
        from pytest_kvbench.errors import KvbenchError, MissingPrerequisiteError
        from pytest_kvbench.pipeline.conclude import SUMMARY, conclude
        from pytest_kvbench.pipeline.ending import Reason, of_conclusion, of_lines
        from pytest_kvbench.pipeline.group import now
        from pytest_kvbench.plugin.opened import opened
        from pytest_kvbench.store.store import Store

        waits, reasons = "", list[Reason]()
        try:
            batches = Ledger(options.reports / group).open
            waits, reasons = waiting_for(batches), of_lines(group, strange(batches))
            prepared = opened(self._config, group)
            with Store(prepared.database) as store:
                if run_id not in {run.run_id for run in store.runs()}:
                    reasons += self._nothing(group, options, self._cause(group, "nothing was run"))
                    return _Result(group, None, (), "nothing was run: see above", reasons=reasons)
                if not waits and not self._interrupted:
                    store.finish_run(run_id, now())
                landed, answers = store.landed(run_id), store.count("answers")
            done = conclude(prepared, _wishes(options, group), self.analyst.judge)
        except MissingPrerequisiteError as error:  # nothing was answered
            why = waits or self._cause(group, error.what)
            problem = waits or self._cause(group, str(error))
            reasons += self._nothing(group, options, why)
            return _Result(group, None, problem=problem, reasons=reasons)
        except KvbenchError as error:
            return _Result(group, None, problem=str(error), reasons=[Reason.of(error, group)])
        _for_ci(done, self._config)
        same = not landed and not waits and not done.changed
        idle = f"nothing was left to do: {answers:,} answers were there" if same else waits
        files = (*([done.report] if done.report else []), prepared.folder / SUMMARY)
        reasons += of_conclusion(done, self._noticed.wanted[group], waits)
        if waits and options.compare:
            reasons += self._nothing(group, options, waits)
        against = list(self._against(done))
        return _Result(group, done.summary, files, "", idle, against, reasons)

    def _cause(self, group: str, otherwise: str) -> str:
        """Why nothing is there of a group: what its items met first."""
        return self._noticed.causes.get(group, otherwise)

    def _nothing(self, group: str, options: Options, why: str) -> list[Reason]:
        """The reasons of an exit status other than 0 for a group without a summary."""
        from pytest_kvbench.pipeline.ending import Reason

        lacking = f"not compared with baseline {options.compare}: " if options.compare else ""
        certifies = group in self._noticed.certifying
        if not (lacking or options.save or certifies or self._noticed.wanted[group]):
            return []
        return [Reason(InfrastructureError.exit_status, f"{group}: {lacking}{why}")]

    def _against(self, done: Conclusion) -> Iterator[str]:
        """The lines that --kvbench-compare and --kvbench-save add to the output."""
        if done.comparison is not None:
            from pytest_kvbench.ops.listing import comparison_lines

            yield from comparison_lines(done.comparison)
        if done.uncompared is not None:
            yield from str(done.uncompared).splitlines()
        if done.saved is not None:
            yield f"saved: {self._shown(done.saved)}"
            yield from [f"saved with {done.lacking}"] if done.lacking else []
        if done.kept:
            yield done.kept

    def _mirror_registry(self) -> None:
        """Show shared controls in `pytest --cache-show`."""
        cache = getattr(self._config, "cache", None)
        if cache is None:
            return
        from pytest_kvbench.files import CONTROLS
        from pytest_kvbench.store.controls import SharedControls

        cache.set(REGISTRY_KEY, SharedControls(cache.mkdir(CONTROLS)).registry())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """At most a screen per group: verdicts, transitions, what is missing, where things are."""
        from pytest_kvbench.report import terminal_lines

        for result in self._results:
            terminalreporter.section(f"kvbench {result.group}", sep="-")
            if result.summary is None:
                terminalreporter.write_line(result.problem)
                continue
            paths = [self._shown(file) for file in result.files]
            last = [*([result.idle] if result.idle else []), *paths, self._next(result)]
            width = min(100, max(60, terminalreporter._tw.fullwidth))
            for line in terminal_lines(result.summary, width, paths=last):
                terminalreporter.write_line(line)
            for line in result.against:
                terminalreporter.write_line(line)

    def _shown(self, file: Path) -> str:
        here = self._config.invocation_params.dir
        return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)

    def _next(self, result: _Result) -> str:
        """The command that most users want next."""
        if self._config.option.kvbench_report is None:
            folder = Options.of(self._config).reports / result.group
            return f"report: {command('report', folder)}"
        return "same again asks only what is missing; anew: --kvbench-fresh"


def _wishes(options: Options, group: str) -> Wishes:
    from pytest_kvbench.pipeline.conclude import Wishes

    folder = options.report_folder / group if options.report_folder else None
    return Wishes(options.report, folder, options.compare, options.save, options.figures)


def _for_ci(done: Conclusion, config: pytest.Config) -> None:
    """The answer, and what changed against a baseline: on a CI job's page, and in JUnit XML."""
    from pytest_kvbench.report import append_step_summary, append_to_step_summary

    append_step_summary(done.summary, os.environ)
    if done.comparison is not None:
        from pytest_kvbench.ops.compare_page import comparison_facts, comparison_markdown

        append_to_step_summary(comparison_markdown(done.comparison), os.environ)
        note_on_suite(config, comparison_facts(done.comparison))
