"""What pytest shows of an item that failed: a line in a list, and nothing of our insides."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.outcomes import Failed

from pytest_kvbench.errors import KvbenchError
from pytest_kvbench.plugin.checks import CheckError
from pytest_kvbench.wire import sound

_AGAIN = "as above"
_FITS = 69
"""Characters that stand after it in a line of 80."""


class Unmeasured(Failed):
    """An item that could not be measured: an error of two lines, without a traceback."""

    def __init__(self, problem: KvbenchError, item: str) -> None:
        super().__init__(f"kvbench: {problem}", pytrace=False)
        self.short = problem.what.removeprefix(f"{item}: ")


def shorten(report: pytest.TestReport, call: pytest.CallInfo[None], item: pytest.Item) -> None:
    """Give a report of ours its line in a list of failed items, which may have no more room.

    A check that failed is shown as its verdict; where the user asks for a style of tracebacks, as
    that.
    """
    error = call.excinfo.value if call.excinfo else None
    if not isinstance(error, (CheckError, Unmeasured)):
        return
    if isinstance(error, CheckError) and item.config.option.tbstyle == "auto":
        assert call.excinfo is not None  # noqa: S101 -- it brought the error
        report.longrepr = call.excinfo.getrepr(style="value", chain=False)
    _say(report, error.short)


def say_again(report: pytest.TestReport, why: str) -> None:
    """Make the report of an item that met what another one met already a short one."""
    shown: Any = report.longrepr
    for entry in shown.reprtraceback.reprentries:
        entry.lines = [f"{_AGAIN}: {sound.message(why, _FITS)}"]
    _say(report, _AGAIN)


def _say(report: pytest.TestReport, line: str) -> None:
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = line
