"""A whole run against a scripted server, with xdist on and off."""

from __future__ import annotations

import json
import re
import sqlite3

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.pipeline import sane_control
from pytest_kvbench.report import plots
from tests.conftest import Project
from tests.support.mock_server import MockServer

with_and_without_xdist = pytest.mark.parametrize("n", ["0", "2"])
seldom_with_xdist = pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])

ITEMS = 2 * 3  # bins x (control, 0.5, 0.2)
REQUESTS = 2 * 10 * 3


@with_and_without_xdist
def test_every_cell_is_an_item_asked_and_stored_once(
    project: Project, mock: MockServer, n: str
) -> None:
    result = project.run("-n", n)
    result.assert_outcomes(passed=ITEMS)
    assert result.ret == 0
    with sqlite3.connect(project.path / "reports/g/kvbench.sqlite") as db:
        counts = {
            table: db.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("requests", "answers", "telemetry", "scores", "failures")
        }
    assert counts == {
        "requests": REQUESTS,
        "answers": REQUESTS,
        "telemetry": REQUESTS,
        "scores": REQUESTS,
        "failures": 0,
    }
    result.stdout.fnmatch_lines(["*kvbench g*"])
    assert mock.posts == 20, "a sweep asks all arms of an example at once"
    assert set(mock.asked.values()) == {1}
    project.run("-n", n).assert_outcomes(passed=ITEMS)
    assert mock.posts == 20, "a second run asks nothing"


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_in_flight_are_counted_over_all_workers(
    project: Project, mock: MockServer, concurrency: int
) -> None:
    mock.latency_s = 0.05
    result = project.run("-n", "2", "--kvbench-set", f"engine.concurrency={concurrency}")
    result.assert_outcomes(passed=ITEMS)
    assert mock.most_in_flight == concurrency


@with_and_without_xdist
def test_gate_fails_on_a_break_and_exits_1(project: Project, mock: MockServer, n: str) -> None:
    mock.accuracy = lambda policy, budget: 1.0 if budget >= 0.5 else 0.0
    result = project.run(
        "-n", n, "--kvbench-set", "gate.mode=gate", "--kvbench-set", "gate.alpha=0.2"
    )
    result.assert_outcomes(passed=4, failed=2, warnings=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*snapkv-0.20 breaks: control 1.000, treated 0.000*"])


def test_measure_never_fails_on_a_verdict(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 1.0 if budget == 1 else 0.0
    result = project.run()
    result.assert_outcomes(passed=ITEMS)
    assert result.ret == 0
    pooled = [c for c in project.summary()["cells"] if c["bin"] == "all" and c["verdict"]]
    assert {c["verdict"] for c in pooled} == {"breaks"}


@seldom_with_xdist
def test_a_dead_server_is_an_error_with_exit_code_10(
    project: Project, mock: MockServer, n: str
) -> None:
    answered = 6

    def die(number: int, body: object) -> None:
        if number > answered:
            mock._server.end()

    mock.trouble = die
    mock.latency_s = 0.05  # it takes a tenth of a second to die
    result = project.run("-n", n, "--kvbench-set", "engine.concurrency=1")
    outcomes = result.parseoutcomes()
    assert result.ret == 10
    assert outcomes["errors"] >= 3
    assert "failed" not in outcomes
    result.stdout.fnmatch_lines(["*is gone*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    with sqlite3.connect(project.path / "reports/g/kvbench.sqlite") as db:
        assert db.execute("select count(*) from answers").fetchone()[0] >= 3 * (answered - 1)
    assert project.summary()["partial"] is True


def test_interrupted_run_is_completed_by_the_next(project: Project, mock: MockServer) -> None:
    project.run("-k", "bin0")
    assert mock.posts == 10
    assert project.summary()["partial"] is True
    project.run().assert_outcomes(passed=ITEMS)
    assert mock.posts == 20
    assert project.summary()["partial"] is False


def test_partial_run_names_missing_cells(project: Project) -> None:
    result = project.run("-k", "control")
    result.assert_outcomes(passed=2, deselected=4)
    missing = project.summary()["missing"]
    assert {(m["policy"], m["budget"], m["reason"]) for m in missing} == {
        ("snapkv", 0.5, "not run"),
        ("snapkv", 0.2, "not run"),
    }


@pytest.mark.parametrize("n", ["0"])
def test_unapplied_budget_is_an_error(project: Project, mock: MockServer, n: str) -> None:
    mock.achieved = lambda policy, budget: 1.0
    result = project.run("-n", n)
    result.assert_outcomes(passed=2, errors=4)
    assert result.ret == 10
    result.stdout.fnmatch_lines(["*the budget 0.2 was not applied*"])


def test_a_sick_control_fails_and_its_treatments_are_spared(
    project: Project, mock: MockServer
) -> None:
    mock.accuracy = lambda policy, budget: 0.0
    result = project.run("--kvbench-set", "gate.control_floor=0.5", "-k", "bin0")
    result.assert_outcomes(errors=2, failed=1, deselected=3)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*there is nothing to lose*", "*its treatments do not count*"])
    assert mock.posts == sane_control.PROBE


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_full_cache_that_says_nothing_stops_every_bin(
    project: Project, mock: MockServer, n: str
) -> None:
    mock.wrong = ""
    mock.accuracy = lambda policy, budget: float(policy != "none")
    sick = project.run("-n", n)
    sick.assert_outcomes(errors=4, failed=2)
    sick.stdout.fnmatch_lines(["*8 of 8 replies of the full cache are useless (8 EMPTY_OUTPUT)*"])
    assert mock.posts == 2 * sane_control.PROBE
    again = project.run("-n", n)
    again.assert_outcomes(errors=4, failed=2)
    assert mock.posts == 2 * sane_control.PROBE
    allowed = project.run("-n", n, "--kvbench-set", "gate.max_sick=1")
    allowed.assert_outcomes(errors=4, failed=1, passed=1)  # asked in bin 1, and not judged
    assert mock.posts == sane_control.PROBE + 10


def test_x_stops_and_starts_nothing_more(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: 0.0
    mock.latency_s = 0.2
    arguments = ("--kvbench-set", "gate.control_floor=0.5", "--kvbench-set", "engine.concurrency=2")
    result = project.run("-x", *arguments)
    result.assert_outcomes(failed=1)
    assert mock.posts < 20


@pytest.mark.slow
def test_last_failed_runs_only_what_failed(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: float(budget > 0.2)
    arguments = ("--kvbench-set", "gate.mode=gate")
    project.run("-n", "2", *arguments).assert_outcomes(passed=4, failed=2)
    for n in ("2", "0"):
        project.run("-n", n, "--lf", *arguments).assert_outcomes(failed=2)


def test_without_the_cache_plugin(project: Project, mock: MockServer) -> None:
    result = project.run("-p", "no:cacheprovider")
    result.assert_outcomes(passed=ITEMS)
    assert (project.path / "reports/g/shared_controls").is_dir()


def test_controls_are_shared_between_groups(project: Project, mock: MockServer) -> None:
    project.run()
    asked = len(mock.controls)
    project.run("--kvbench-set", "group=other", "--kvbench-set", "kv.policies=[knorm]")
    assert len(mock.controls) == asked == 20
    assert set(mock.controls) == {1}
    assert len(project.summary("other")["cells"]) == len(project.summary()["cells"])


def test_cache_clear_loses_no_answer(project: Project, mock: MockServer) -> None:
    project.run()
    result = project.run("--cache-clear", "-n", "1")
    result.assert_outcomes(passed=ITEMS)
    assert mock.posts == 20
    assert list((project.path / ".pytest_cache").rglob("control.jsonl"))


def test_cache_show_shows_the_registry(project: Project) -> None:
    project.run()
    result = project.run("--cache-show", "kvbench/*")
    result.stdout.fnmatch_lines(["*kvbench/control_registry contains:*", "*'completed'*"])


def test_fresh_asks_everything_again_beside_the_old(project: Project, mock: MockServer) -> None:
    project.run()
    project.run("--kvbench-fresh", "-n", "2").assert_outcomes(passed=ITEMS)
    assert mock.posts == 40
    with sqlite3.connect(project.path / "reports/g/kvbench.sqlite") as db:
        assert db.execute("select count(*) from answers").fetchone()[0] == 2 * REQUESTS
    project.run().assert_outcomes(passed=ITEMS)
    assert mock.posts == 40


def test_other_server_settings_never_meet_stale_answers(project: Project, mock: MockServer) -> None:
    project.run()
    mock.fingerprint = {"weights": "other"}
    project.run()
    assert mock.posts == 40


@pytest.mark.parametrize("n", ["1"])
def test_changed_selection_is_refused(project: Project, n: str) -> None:
    project.run()
    result = project.run("-n", n, "--kvbench-set", "bins.per_bin=5")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*group g: its stored bins*", "*--kvbench-force*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    forced = project.run("--kvbench-set", "bins.per_bin=5", "--kvbench-force")
    forced.assert_outcomes(passed=ITEMS)


def test_figures_for_a_paper_are_drawn_in_a_run_and_from_what_is_stored(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    monkeypatch.setattr(plots, "draw_all", lambda *given: drawn.append(given[-1]) or ())
    assert project.run("-n", "0", "-k", "bin0", "--kvbench-figures", "svg,pdf").ret == 0
    assert (project.path / "reports/g/report.html").is_file()
    assert project.run("-n", "0", "-k", "bin0", "--kvbench-figures", "png").ret == 0
    done = CliRunner().invoke(main, ["report", "g", "--figures", "pdf"])
    assert done.exit_code == 0, done.output
    assert drawn == [("svg", "pdf"), ("png",), ("pdf",)]


def test_a_format_of_figures_that_there_is_not_ends_before_anything_is_asked(
    project: Project, mock: MockServer
) -> None:
    result = project.run("-n", "0", "--kvbench-figures", "pdf,tiff")
    assert result.ret == 4
    assert "'tiff' is no format" in result.stdout.str() + result.stderr.str()
    assert not mock.posts
    done = CliRunner().invoke(main, ["report", "g", "--figures", "tiff"])
    assert done.exit_code == 4
    assert "--figures: 'tiff' is no format\nvalid: pdf, svg, png" in done.output


@pytest.mark.usefixtures("pictures")
def test_report_is_written_where_asked(project: Project) -> None:
    result = project.run("--kvbench-report=out")
    assert result.ret == 0
    report = (project.path / "out/g/report.md").read_text(encoding="utf-8")
    assert "snapkv" in report
    assert list((project.path / "out/g/plots").glob("*.png"))


def test_report_option_does_not_swallow_the_tests_folder(project: Project) -> None:
    result = project.run("--kvbench-report", ".")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*holds tests and is no place for a report*"])


def test_junit_and_user_properties_survive(project: Project) -> None:
    result = project.run("-n", "1", "--junitxml=j.xml")
    result.assert_outcomes(passed=ITEMS)
    assert "@kvbench" not in (project.path / "j.xml").read_text(encoding="utf-8")


def test_manifest_is_byte_identical_elsewhere(project: Project) -> None:
    manifest = project.path / "reports/g/manifest.json"
    project.run()
    first = manifest.read_bytes()
    project.run("--kvbench-dir", "elsewhere")
    assert (project.path / "elsewhere/g/manifest.json").read_bytes() == first
    assert json.loads(first)["tasks"][0]["task"] == "jsonl:words.jsonl"


def test_a_group_stays_on_one_worker(project: Project) -> None:
    result = project.run("-n", "2", "-v", "--kvbench-set", "kv.policies=[snapkv, knorm, tova]")
    workers: dict[str, set[str]] = {}
    for line in result.outlines:
        found = re.match(r"\[(gw\d)\].* PASSED \S+-(bin\d)-", line)
        if found:
            workers.setdefault(found[2], set()).add(found[1])
    assert {len(used) for used in workers.values()} == {1}
    assert len(workers) == 2


def test_two_experiments_cannot_share_a_group(project: Project) -> None:
    project.pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml")
        def test_one(cell, control):
            cell.compare(control).check()

        @pytest.mark.kvbench("exp.yaml")
        def test_same(cell, control):
            cell.compare(control).check()

        @pytest.mark.kvbench("exp.yaml", kv={"budgets": [1.0, 0.3]})
        def test_other(cell, control):
            cell.compare(control).check()
        """
    )
    result = project.run()
    result.assert_outcomes(passed=12, errors=4)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*two experiments of this run differ in kv*"])


def test_an_arm_that_saw_another_prompt_is_not_proven(project: Project, mock: MockServer) -> None:
    project.run("-n", "0", "-k", "control")
    mock.prompt_tokens = lambda prompt: 90
    project.run("-n", "0")
    treated = [c for c in project.summary()["cells"] if c["policy"] != "none"]
    assert {c["proof"] for c in treated} == {"unverified"}


def test_nothing_left_to_do_judges_and_draws_nothing_again(project: Project) -> None:
    project.run("-n", "0", "--kvbench-report=out")
    summary = project.path / "reports" / "g" / "summary.json"
    before = summary.stat().st_mtime_ns, (project.path / "out/g/report.md").stat().st_mtime_ns
    again = project.run("-n", "0", "--kvbench-report=out")
    again.assert_outcomes(passed=6)
    again.stdout.fnmatch_lines(["nothing was left to do: 60 answers were there"])
    after = summary.stat().st_mtime_ns, (project.path / "out/g/report.md").stat().st_mtime_ns
    assert after == before
    other = project.run("-n", "0", "--kvbench-report=out", "--kvbench-set", "gate.margin=0.2")
    other.stdout.no_fnmatch_line("nothing was left to do*")
    assert summary.stat().st_mtime_ns > before[0]
