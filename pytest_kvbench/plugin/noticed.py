"""The reports of items as the controller collects them: selected cells, and failures by cause.

Plain data and light: all it knows are reports, which may come from workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_kvbench.errors import EXIT_FOUND, InfrastructureError, UsageError
from pytest_kvbench.plugin.options import ERROR_PREFIX
from pytest_kvbench.plugin.scope import without_scope

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_kvbench.pipeline.ending import Reason


@dataclass
class Noticed:
    """What the reports of items have brought so far.

    `wanted`: by group, the ids of the cells that were to be measured. `certifying`: groups that
    pass only what is shown. `mistaken`: the user's mistakes in declarations. `failed`: by exit
    status, a line for each report. `causes`: by group, why the first of its items was not measured.
    """

    wanted: dict[str, set[str]] = field(default_factory=dict)
    certifying: set[str] = field(default_factory=set)
    mistaken: list[str] = field(default_factory=list)
    failed: dict[int, list[str]] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)

    def collected(self, report: pytest.CollectReport) -> None:
        """Record the collection of a module: an error that we explained is one of the user's."""
        if not report.failed:
            return
        message = str(report.longrepr)
        if ERROR_PREFIX in message:
            self.mistaken.append(message.partition(ERROR_PREFIX)[2].partition("\n")[0])
        else:
            self._fail(EXIT_FOUND, f"{report.nodeid}: cannot be collected")

    def ran(self, report: pytest.TestReport) -> None:
        """Record a phase of an item; the cell of a skipped one was not to be measured."""
        ours: dict[str, Any] | None = getattr(report, "kvbench", None)
        if ours is not None:
            wanted = self.wanted.setdefault(ours["group"], set())
            wanted.update([ours["cell"]] if report.failed or _was_called(report) else [])
            self.certifying.update([ours["group"]] if ours["certifies"] else [])
        if not report.failed:
            return
        status, why = ours["unmeasured"] if ours else getattr(report, "kvbench_crash", (0, ""))
        if ours and why:
            self.causes.setdefault(ours["group"], why)
            self._shorten(report, why.removeprefix(f"{ours['cell']}: "))
        self._fail(status or EXIT_FOUND, f"{report.nodeid}: {why or _message(report)}")

    def _shorten(self, report: pytest.TestReport, why: str) -> None:
        """What stopped an item, in full only once: a dead server stops them all."""
        if why in self._shown:
            from pytest_kvbench.plugin.shown import say_again

            say_again(report, why)
        self._shown.add(why)

    def crashed(self, crashitem: str, report: pytest.TestReport) -> None:
        """Mark a crash under a kvbench item: it says nothing about quality."""
        if without_scope(crashitem) != crashitem:
            crash = (InfrastructureError.exit_status, "its worker crashed")
            report.kvbench_crash = crash  # type: ignore[attr-defined]

    def worker_lost(self) -> None:
        """Record that workers died and left items that nobody ran."""
        self._fail(InfrastructureError.exit_status, "workers crashed, and not all tests were run")

    def none_collected(self, config: pytest.Config) -> None:
        """Record that all workers died while they collected what may be kvbench items."""
        if any(b"kvbench" in file.read_bytes() for file in _test_files(config)):
            self._fail(InfrastructureError.exit_status, "all workers crashed while they collected")

    @property
    def is_ours(self) -> bool:
        """Whether kvbench items decide the exit status."""
        return bool(self.wanted) or InfrastructureError.exit_status in self.failed

    def mistakes(self) -> Iterator[Reason]:
        """The errors in declarations, for which nothing was run."""
        from pytest_kvbench.pipeline.ending import Reason

        yield from (Reason(UsageError.exit_status, line) for line in self.mistaken)

    def reasons(self, concluded: list[Reason]) -> Iterator[Reason]:
        """The reasons of the conclusion, then a line per other status that items failed with."""
        from pytest_kvbench.pipeline.ending import Reason

        yield from concluded
        explained = {reason.status for reason in concluded} - {UsageError.exit_status}
        for status, lines in self.failed.items():
            if status not in explained:
                more = f" ({len(lines):,} of such)" if len(lines) > 1 else ""
                yield Reason(status, f"{lines[0]}{more}")

    def _fail(self, status: int, line: str) -> None:
        self.failed.setdefault(status, []).append(line)


def _message(report: pytest.TestReport) -> str:
    """What an assertion says, in a line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    said = str(getattr(crash, "message", "")).partition("\n")[0]
    return said.removeprefix("AssertionError: ") or "failed"


def _was_called(report: pytest.TestReport) -> bool:
    return report.when == "call" and not report.skipped


def _test_files(config: pytest.Config) -> Iterator[Path]:
    """The files of tests that were to be collected."""
    for arg in config.args:
        start = config.invocation_params.dir / arg.partition("::")[0]
        if start.is_file():
            yield start
        for pattern in config.getini("python_files"):
            yield from (file for file in start.rglob(pattern) if file.is_file())
