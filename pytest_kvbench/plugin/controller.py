"""The controlling process: knows what ran from its reports, ends with verdicts and exit status.

Under xdist it holds no items; all it learns is plain data on the reports. Everything it says it
reads from the groups' databases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvbench.files import run_folder
from pytest_kvbench.plugin.options import ERROR_PREFIX, Options, refuse_swallowed_path
from pytest_kvbench.plugin.scope import without_scope

if TYPE_CHECKING:
    from pathlib import Path

EXIT_INFRASTRUCTURE = 10
REGISTRY_KEY = "kvbench/control_registry"


@dataclass(frozen=True)
class _Result:
    """One group's results, or why there are none."""

    group: str
    summary: dict[str, Any] | None
    files: tuple[Path, ...] = ()
    problem: str = ""


class Controller:
    """Light until a report says that a kvbench item ran."""

    def __init__(self, config: pytest.Config, run_id: str) -> None:
        refuse_swallowed_path(config)
        self._config = config
        self._run_id = run_id
        self._groups: dict[str, str] = {}
        self._explained = False
        self._usage = False
        self._infrastructure = False
        self._plain_failure = False
        self._results: list[_Result] = []

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
        ours: dict[str, str] | None = getattr(report, "kvbench", None)
        if ours is not None:
            self._groups[ours["group"]] = ours["gate"]
        if not report.failed:
            return
        reason = ours["reason"] if ours else getattr(report, "kvbench_crash", "")
        self._usage |= reason == "usage"
        self._infrastructure |= reason == "infrastructure"
        self._plain_failure |= not reason

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """A crashed worker says nothing about quality."""
        if without_scope(crashitem) != crashitem:
            report.kvbench_crash = "infrastructure"  # type: ignore[attr-defined]  # rides along

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
        if not self._groups:
            return
        options = Options.of(self._config)
        self._results = [self._finish(group, options, run_id) for group in self._groups]
        self._mirror_registry()
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = self._status()

    def _finish(self, group: str, options: Options, run_id: str) -> _Result:
        from pytest_kvbench import stages
        from pytest_kvbench.errors import KvbenchError
        from pytest_kvbench.store import Store

        try:
            prepared = stages.open_group(options.reports / group, options.tasks)
            with Store(prepared.database) as store:
                store.finish_run(run_id, stages.now())
                stages.score(store, [request.key for _, request in prepared.requests()])
            summary = stages.analyse(prepared)
            files = [prepared.folder / stages.SUMMARY]
            if options.report:
                folder = options.report_folder / group if options.report_folder else None
                files.insert(0, stages.report(prepared, folder))
        except KvbenchError as error:
            return _Result(group, None, problem=str(error))
        return _Result(group, summary, tuple(files))

    def _mirror_registry(self) -> None:
        """Show shared controls in `pytest --cache-show`."""
        cache = getattr(self._config, "cache", None)
        if cache is None:
            return
        from pytest_kvbench.plugin.runtime import CONTROLS
        from pytest_kvbench.store.controls import SharedControls

        cache.set(REGISTRY_KEY, SharedControls(cache.mkdir(CONTROLS)).registry())

    def _status(self) -> int:
        if self._usage:
            return pytest.ExitCode.USAGE_ERROR
        if self._plain_failure or any(map(self._breaks_at_the_end, self._results)):
            return pytest.ExitCode.TESTS_FAILED
        if self._infrastructure:
            return EXIT_INFRASTRUCTURE
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
            width = min(100, max(60, terminalreporter._tw.fullwidth))
            for line in terminal_lines(result.summary, width, paths=[*paths, self._next(result)]):
                terminalreporter.write_line(line)

    def _shown(self, file: Path) -> str:
        here = self._config.invocation_params.dir
        return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)

    def _next(self, result: _Result) -> str:
        """The command that most users want next."""
        if self._config.option.kvbench_report is None:
            return f"report: kvbench report {result.group}"
        return "same again asks only what is missing; anew: --kvbench-fresh"
