"""The line shown while cells are measured, in the process that owns the terminal.

The first item of a group can take minutes without a report, so a thread looks into the groups'
databases. On a terminal the line stands below pytest's own output and is redrawn; elsewhere it is
written once a minute, and only under -v. Never under -q.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kvbench.errors import KvbenchError
from pytest_kvbench.pipeline import plan
from pytest_kvbench.plugin import notes
from pytest_kvbench.plugin.opened import opened
from pytest_kvbench.plugin.options import Options
from pytest_kvbench.plugin.properties import verdict_on
from pytest_kvbench.report import text
from pytest_kvbench.report.progress import Progress
from pytest_kvbench.store.outstanding import Count, Outstanding
from pytest_kvbench.store.store import DATABASE, Store

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_kvbench.pipeline.group import Prepared

REDRAW_S = 1.0
LINE_S = 60.0
LABEL = "kvbench: "


class Watched:
    """One group's answers, as its database has them."""

    def __init__(
        self,
        folder: Path,
        run_id: str,
        selected: frozenset[str],
        opened: Callable[[], Prepared],
    ) -> None:
        self._database = folder / DATABASE
        self._run_id = run_id
        self._selected = selected
        self._opened = opened
        self._began = ""
        self._requests: Outstanding | None = None

    def look(self) -> Count | None:
        """The counts by now; None before the run is prepared.

        Raises:
            KvbenchError: the database cannot be read just now.
        """
        if self._requests is None:
            self._requests = self._open()
        if self._requests is None:
            return None
        return self._requests.look(self._database, self._began)

    def _open(self) -> Outstanding | None:
        if not self._database.is_file():
            return None
        with Store(self._database) as store:
            began = {run.run_id: run.started_at for run in store.runs()}
        if self._run_id not in began:
            return None
        self._began = began[self._run_id]
        prepared = self._opened()
        planned = plan.cells(prepared.experiment)
        # An id ends with its cell's, unless the test has more parameters: then all are counted.
        cells = [c for c in planned if any(_names(i, c.item_id) for i in self._selected)] or planned
        return Outstanding(request.key for _, request in prepared.requests(cells))

    def close(self) -> None:
        """Forget what is planned."""
        if self._requests is not None:
            self._requests.close()


def _names(nodeid: str, cell: str) -> bool:
    return nodeid.endswith((f"[{cell}]", f"-{cell}]"))  # behind the name of a stage


class Screen:
    """A place for one line on the terminal that pytest writes to."""

    def __init__(self, reporter: Any) -> None:
        self._writer = reporter._tw
        self._redraws = reporter.isatty
        self._drawn = False
        self._at_start = False
        self._lock = threading.Lock()
        # A copy, because file descriptor 1 is a capture file while a test runs.
        self._stream = os.fdopen(os.dup(1), "w", encoding="utf-8")

    @property
    def width(self) -> int:
        """Characters that fit."""
        return int(self._writer.fullwidth) - 1

    def show(self, line: str) -> None:
        """Write the line; on a terminal below what pytest writes, the cursor back in its place."""
        with self._lock:
            column = self._writer.width_of_current_line
            if self._redraws:
                back = f"\x1b[{column}C" if column else ""
                self._stream.write(f"\n\x1b[2K{line}\x1b[1A\r{back}")
                self._drawn = True
            else:
                # Pytest knows nothing of our line's end, and remembers its own column.
                self._stream.write(("\n" if column and not self._at_start else "") + line + "\n")
                self._at_start = True
            self._stream.flush()

    @contextlib.contextmanager
    def pytest_writes(self) -> Iterator[None]:
        """A context in which the line is hidden, so that pytest can write."""
        with self._lock:
            if self._drawn:
                self._stream.write("\x1b[J")
                self._stream.flush()
                self._drawn = False
            self._at_start = False
            yield

    def close(self) -> None:
        """Give the copied descriptor back."""
        self._stream.close()


class ProgressLine:
    """The plugin that shows the line; registered once kvbench items will run."""

    NAME = "kvbench-progress"

    def __init__(
        self, config: pytest.Config, run_id: str, selected: Mapping[str, Sequence[str]]
    ) -> None:
        options = Options.of(config)
        self._run_id = run_id
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._screen = Screen(reporter)
        self._every_s = REDRAW_S if reporter.isatty else LINE_S
        self._groups = [
            Watched(
                options.reports / group,
                run_id,
                frozenset(ids),
                partial(opened, config, group),
            )
            for group, ids in selected.items()
        ]
        self._verdicts: Counter[str] = Counter()
        self._progress = Progress()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name=self.NAME)

    # -- hooks: the line makes room whenever pytest writes -----------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logstart(self) -> Iterator[None]:
        """The first item starts the watch."""
        if self._thread.ident is None:
            self._thread.start()
        with self._screen.pytest_writes():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Iterator[None]:
        """Count verdicts; they ride on the reports."""
        verdict = verdict_on(report) if report.when == "call" else None
        self._verdicts.update([verdict] if verdict else [])
        with self._screen.pytest_writes():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logfinish(self) -> Iterator[None]:
        """Hide the line while pytest writes the share of finished items."""
        with self._screen.pytest_writes():
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Remove the line at the end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._screen.pytest_writes():
            pass
        self._screen.close()

    # -- the watch ---------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            # A line that cannot be made now is no reason to disturb a run.
            with contextlib.suppress(KvbenchError, OSError):
                self._show()
        for group in self._groups:
            group.close()

    def _show(self) -> None:
        counts = [count for group in self._groups if (count := group.look()) is not None]
        width = self._screen.width - len(LABEL)
        if counts:
            line = self._progress.line(
                sum(count.settled - count.old for count in counts),
                sum(count.planned for count in counts),
                sum(count.failed - count.old for count in counts),
                self._verdicts,
                width=width,
            )
        elif not (line := text.fit(notes.left(self._run_id), width)):
            return
        self._screen.show(LABEL + line)
