"""Items, plans, and what a user sees who made a mistake."""

from __future__ import annotations

import pytest

from tests.conftest import Project
from tests.support.mock_server import MockServer

MISTAKES = {
    "kv.bugets=[1]": ["*kv.bugets: unknown key*", "*did you mean budgets?*"],
    "tasks=[niah/singel]": ["*tasks.0: unknown task 'niah/singel'*", "*valid: *niah/single*"],
    "kv.policies=[snapvk]": ["*kv.policies.0: unknown policy 'snapvk'*", "*alid: *snapkv*"],
    "kv.budgets=[1.0, 1.5]": ["*kv.budgets.1: 1.5 is not valid*", "*(0, 1]*"],
    "nonsense": ["*is not KEY=VALUE*", "*valid: *"],
}


@pytest.mark.parametrize(
    ("mistake", "n"),
    [*((mistake, "0") for mistake in MISTAKES), *((m, "1") for m in [*MISTAKES][:1])],
)
def test_mistakes_are_two_lines_and_exit_code_4(project: Project, mistake: str, n: str) -> None:
    result = project.run("-n", n, "--kvbench-set", mistake)
    assert result.ret == 4
    result.stdout.fnmatch_lines(MISTAKES[mistake])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*generate*")  # nor a frame of ours
    assert not (project.path / "reports").exists()


@pytest.mark.parametrize("n", ["0", "1"])
def test_missing_model_is_two_lines_and_exit_code_4(project: Project, n: str) -> None:
    local = ("--kvbench-set", "engine.base_url=null", "--kvbench-model", "no-such-model")
    result = project.run("-n", n, *local)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*there is no model 'no-such-model'*", "*alid: smollm2-135m*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert project.run("--collect-only", *local).ret == 0


def test_collection_says_what_a_plan_can_never_decide(project: Project) -> None:
    result = project.run("--collect-only")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*group g: *20 examples in 2 bins can never hold a margin*"])


def test_yaml_typo_names_file_and_line(project: Project) -> None:
    (project.path / "exp.yaml").write_text("group: g\n tasks: [a\n", encoding="utf-8")
    result = project.run()
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*exp.yaml: line 2*is not YAML*"])


def test_ids_are_readable(project: Project) -> None:
    result = project.run("--collect-only", "-q")
    result.stdout.fnmatch_lines(
        [
            "*test_quality[[]jsonl:words.jsonl-bin0-control[]]",
            "*test_quality[[]jsonl:words.jsonl-bin0-snapkv-0.50[]]",
            "*test_quality[[]jsonl:words.jsonl-bin1-snapkv-0.20[]]",
        ]
    )


def test_collect_only_asks_nobody_and_writes_nothing(project: Project, mock: MockServer) -> None:
    assert project.run("--collect-only", "-n", "1").ret == 0
    assert not mock.asked
    assert not (project.path / "reports").exists()


def test_plan_prints_and_runs_nothing(project: Project, mock: MockServer) -> None:
    result = project.run("--kvbench-plan", "-n", "1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*kvbench plan of g*", "*6 cells, 60 requests (0 stored)*"])
    result.stdout.fnmatch_lines(["*can never hold a margin of 0.1,*per_bin: 21 is the least*"])
    assert mock.posts == 0
    assert not (project.path / "reports").exists()


def test_marker_keywords_win_over_the_file(project: Project) -> None:
    project.pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml", group="inline", kv={"budgets": [1.0, 0.3]})
        def test_quality(cell, control):
            cell.compare(control).check()
        """
    )
    project.run().assert_outcomes(passed=4)
    assert project.summary("inline")["experiment"]["kv"]["budgets"] == [1.0, 0.3]


def test_experiment_option_needs_no_python(project: Project) -> None:
    project.pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench
        def test_quality(cell, control):
            cell.compare(control).check()
        """
    )
    project.run().assert_outcomes(skipped=1)
    project.run("--kvbench-experiment", "exp.yaml").assert_outcomes(passed=6)


def test_a_marked_test_without_cell_is_explained(project: Project) -> None:
    project.pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml")
        def test_quality():
            pass
        """
    )
    result = project.run()
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*needs the argument `cell`*"])


def test_fixtures_tell_who_answered(project: Project) -> None:
    project.pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml")
        def test_quality(cell, control, engine):
            assert engine.of(cell).fingerprint == {"weights": "mock"}
            assert control.of(cell).is_control
            assert cell.proof == "proven"
            assert cell.compare(control).lost == 0
        """
    )
    project.run("-n", "2").assert_outcomes(passed=6)


def test_a_conftest_brings_a_task(project: Project) -> None:
    project.pytester.makeconftest(
        """
        from pytest_kvbench.tasks.rows import RowTask

        ROWS = [{"question": f"Say w{i}", "context": f"c{i} " * (9 + i), "answers": [f"w{i}"]}
                for i in range(20)]

        def capitals(options):
            return RowTask(name="mine/words", rows=lambda: ROWS, **options)

        def pytest_kvbench_tasks():
            return {"mine/words": capitals}
        """
    )
    change = ("--kvbench-set", "tasks=[mine/words]", "--kvbench-set", "bins.edges=null")
    for n in ("0", "2"):
        project.run("-n", n, *change, "--kvbench-set", f"group=n{n}").assert_outcomes(passed=6)
        assert [b["n"] for b in project.summary(f"n{n}")["bins"]] == [10, 10]


def test_an_empty_bin_is_skipped_and_said(project: Project) -> None:
    result = project.run("--kvbench-set", "bins.edges=[100000]")
    result.assert_outcomes(passed=3, skipped=3, warnings=2)
    assert result.ret == 0
    assert project.summary()["bins"][1]["n"] == 0
