"""What answers cost: whose time a latency is, and how fast a run got its replies."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import JSONResponse

from tests.conftest import Project
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.timed
TIMES = ("latency_p50", "latency_p95")


def _latencies(project: Project) -> list[Any]:
    summary = project.summary()
    arms = [*summary["efficiency"]["arms"], *summary["bin_stats"]]
    return [arm[time] for arm in arms for time in TIMES]


def _report(project: Project) -> str:
    return (project.path / "reports/g/report.md").read_text(encoding="utf-8")


def test_the_time_of_a_shared_sweep_is_nobodys(project: Project, mock: MockServer) -> None:
    project.run("-n", "0", "--kvbench-report").assert_outcomes(passed=6)
    assert mock.posts == 20  # an example, all its arms
    assert set(_latencies(project)) == {None}
    assert "what an answer takes was not measured alone" in _report(project)
    assert "the median answer takes" not in _report(project)


def test_arms_that_are_asked_alone_have_a_latency_of_their_own(
    project: Project, mock: MockServer
) -> None:
    alone = ("--kvbench-set", "engine.sweep=false")
    project.run("-n", "0", "--kvbench-report", *alone).assert_outcomes(passed=6)
    assert mock.posts == 60
    assert None not in _latencies(project)
    assert "the median answer takes" in _report(project)


def test_what_a_rate_limit_cost_is_in_summary_and_report(
    project: Project, mock: MockServer
) -> None:
    refused = JSONResponse({}, status_code=429, headers={"Retry-After": "0.1"})
    mock.trouble = lambda number, body: refused if number == 1 else None
    project.run("-n", "0", "--kvbench-report").assert_outcomes(passed=6)
    reached = project.summary()["efficiency"]["throughput"]
    assert reached["requests"] == 20
    assert reached["waited_s"] > 0
    assert reached["requests_per_minute"] > 0
    assert "The last run ended 20 requests, " in _report(project)
    assert "in all for rate limits" in _report(project)
