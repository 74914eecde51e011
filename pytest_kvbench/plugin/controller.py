"""The controlling process: knows what ran from its reports, ends with verdicts and exit status.

Under xdist it holds no items; all it learns is plain data on the reports. Everything it says it
reads from the groups' databases.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvbench.errors import InfrastructureError, UsageError
from pytest_kvbench.files import run_folder
from pytest_kvbench.hints import command
from pytest_kvbench.plugin.options import (
    CONTROLLER,
    ERROR_PREFIX,
    NOT_LOADED,
    RUNTIME,
    Options,
    refuse_swallowed_path,
    refuse_unknown_baseline,
)
from pytest_kvbench.plugin.properties import progress_wanted
from pytest_kvbench.plugin.scope import group_of, without_scope

if TYPE_CHECKING:
    from pytest_kvbench.pipeline.conclude import Conclusion, Wishes
    from pytest_kvbench.pipeline.judge_process import Analyst

PROGRESS = "kvbench-progress"
REGISTRY_KEY = "kvbench/control_registry"


@dataclass(frozen=True)
class Against:
    """What --kvbench-save and --kvbench-compare made of a group."""

    lines: Sequence[str] = ()
    regressed: bool = False


@dataclass(frozen=True)
class _Result:
    """One group's results, or why there are none."""

    group: str
    summary: dict[str, Any] | None
    files: tuple[Path, ...] = ()
    problem: str = ""
    idle: str = ""
    against: Against = field(default_factory=Against)


class Controller:
    """Light until a report says that a kvbench item ran."""

    NAME = CONTROLLER

    def __init__(self, config: pytest.Config, run_id: str) -> None:
        refuse_swallowed_path(config)
        refuse_unknown_baseline(config)
        self._config = config
        self._run_id = run_id
        self._groups: dict[str, str] = {}
        self._explained = False
        self._usage = False
        self._infrastructure = False
        self._plain_failure = False
        self._expected: set[str] = set()
        self._ran: set[str] = set()
        self._lost_worker = False
        self._results: list[_Result] = []

    @cached_property
    def analyst(self) -> Analyst:
        """Who judges at the end."""
        from pytest_kvbench.pipeline.judge_process import Analyst

        return Analyst()

    # -- what will run ---------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers: which kvbench items were selected."""
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
        """With workers: the same, from the ids that each of them reports."""
        selected: dict[str, list[str]] = {}
        for nodeid in ids:
            group = group_of(nodeid)
            if group:
                selected.setdefault(group, []).append(without_scope(nodeid))
        self._find_tasks(nodeid for nodeids in selected.values() for nodeid in nodeids)
        self._expect(selected)

    def _find_tasks(self, nodeids: Iterable[str]) -> None:
        """Conftests below the folder that was named are loaded by workers alone."""
        from pytest_kvbench.plugin.project import conftest_tasks
        from pytest_kvbench.tasks.project import ProjectTasks

        files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in nodeids)
        folders = [Path(self._config.rootpath, file).parent for file in files]
        self._config.stash[NOT_LOADED] = ProjectTasks(folders, conftest_tasks)

    def _expect(self, selected: Mapping[str, Sequence[str]]) -> None:
        """Kvbench items will run: show how far they are."""
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
        """Notice an error of the user's in a declaration."""
        if report.failed:
            ours = ERROR_PREFIX in str(report.longrepr)
            self._explained |= ours
            self._plain_failure |= not ours

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notice which groups ran and what kind of failure each is."""
        report.nodeid = without_scope(report.nodeid)
        self._ran.add(report.nodeid)
        ours: dict[str, Any] | None = getattr(report, "kvbench", None)
        if ours is not None:
            self._groups[ours["group"]] = ours["gate"]
        if not report.failed:
            return
        status = ours["unmeasured"] if ours else getattr(report, "kvbench_crash", 0)
        self._usage |= status == UsageError.exit_status
        self._infrastructure |= status == InfrastructureError.exit_status
        self._plain_failure |= not status

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """A crashed worker says nothing about quality."""
        if without_scope(crashitem) != crashitem:
            report.kvbench_crash = InfrastructureError.exit_status  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object | None) -> None:
        """A worker ended; by itself, where there is an error."""
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

    # -- the end ---------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Stop servers, analyse, report, and set the exit status."""
        if self._explained and exitstatus != pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
            return
        run_id = self._run_id
        if run_folder(run_id).exists():
            from pytest_kvbench.engines import stop_all

            stop_all(run_folder(run_id))
        # xdist itself says OK where nobody was left to run the rest.
        self._infrastructure |= self._lost_worker and not self._expected <= self._ran
        if self._groups:
            options = Options.of(self._config)
            self._results = [self._finish(group, options, run_id) for group in self._groups]
            self._mirror_registry()
        ours = self._groups or self._infrastructure
        if ours and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = self._status()

    def pytest_unconfigure(self) -> None:
        """However the session ended."""
        if "analyst" in self.__dict__:
            self.analyst.close()

    def _finish(self, group: str, options: Options, run_id: str) -> _Result:
        from pytest_kvbench.batch.ledger import waiting
        from pytest_kvbench.errors import KvbenchError
        from pytest_kvbench.pipeline.conclude import SUMMARY, conclude
        from pytest_kvbench.pipeline.group import now
        from pytest_kvbench.plugin.opened import opened
        from pytest_kvbench.store.store import Store

        waits = ""
        try:
            waits = waiting(options.reports / group)
            prepared = opened(self._config, group)
            with Store(prepared.database) as store:
                if run_id not in {run.run_id for run in store.runs()}:
                    return _Result(group, None, problem="nothing was run: see the errors above")
                store.finish_run(run_id, now())
                landed, answers = store.landed(run_id), store.count("answers")
            done = conclude(prepared, _wishes(options, group), self.analyst.judge)
        except KvbenchError as error:
            return _Result(group, None, problem=waits or str(error))
        _step_summary(done.summary)
        same = not landed and not waits and not done.changed
        idle = f"nothing was left to do: {answers:,} answers were there" if same else waits
        files = (*([done.report] if done.report else []), prepared.folder / SUMMARY)
        against = self._against(done, options, group)
        return _Result(group, done.summary, files, idle=idle, against=against)

    def _against(self, done: Conclusion, options: Options, group: str) -> Against:
        """What --kvbench-compare and --kvbench-save came to, in words."""
        if not (options.compare or options.save):
            return Against()
        from pytest_kvbench.ops.listing import comparison_lines

        lines: list[str] = []
        if done.comparison is not None:
            lines += comparison_lines(done.comparison)
        elif options.compare:
            lines += [f"baseline {options.compare} has no group {group}: not compared"]
        if done.saved is not None:
            lines += [f"saved: {self._shown(done.saved)}"]
        regressed = done.comparison is not None and bool(done.comparison.regressions)
        return Against(lines, regressed)

    def _mirror_registry(self) -> None:
        """Show shared controls in `pytest --cache-show`."""
        cache = getattr(self._config, "cache", None)
        if cache is None:
            return
        from pytest_kvbench.files import CONTROLS
        from pytest_kvbench.store.controls import SharedControls

        cache.set(REGISTRY_KEY, SharedControls(cache.mkdir(CONTROLS)).registry())

    def _status(self) -> int:
        if self._usage:
            return pytest.ExitCode.USAGE_ERROR
        regressed = any(result.against.regressed for result in self._results)
        if self._plain_failure or regressed or any(map(self._breaks_at_the_end, self._results)):
            return pytest.ExitCode.TESTS_FAILED
        if self._infrastructure:
            return InfrastructureError.exit_status
        return pytest.ExitCode.OK

    def _breaks_at_the_end(self, result: _Result) -> bool:
        """A gated group in which Holm, stronger than the items' Bonferroni, finds a break."""
        gated = self._groups[result.group] == "gate"
        cells = result.summary["cells"] if result.summary else ()
        return gated and any(cell["verdict_holm"] == "breaks" for cell in cells)

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
            for line in result.against.lines:
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
    return Wishes(options.report, folder, compare=options.compare, save=options.save)


def _step_summary(summary: dict[str, Any]) -> None:
    """Append the answer to the page of a CI job, where there is one."""
    from pytest_kvbench.report import append_step_summary

    append_step_summary(summary, os.environ)
