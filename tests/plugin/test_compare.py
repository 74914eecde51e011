"""--kvbench-save and --kvbench-compare: baselines of whole runs."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.frames import load_group
from pytest_kvbench.pipeline.baseline import load_baseline
from tests.conftest import Project
from tests.support.mock_server import MockServer

REFUSED = JSONResponse({"error": {"message": "no"}}, status_code=400)


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_the_same_again_is_no_regression(project: Project, n: str) -> None:
    saved = project.run("-n", n, "--kvbench-save", "main")
    assert saved.ret == 0
    saved.stdout.fnmatch_lines(["saved: reports/.baselines/main/g.json"])
    assert (project.path / "reports/.baselines/main/g.json").is_file()
    result = project.run("-n", n, "--kvbench-compare", "main")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["g against baseline main: *", "*: no regression"])


def test_a_baseline_is_a_file_in_git(project: Project, mock: MockServer) -> None:
    mock.accuracy = lambda policy, budget: float(budget >= 0.5)
    none = project.run("-n", "0", "--kvbench-compare", "ci/kv/")
    assert none.ret == 4
    none.stderr.fnmatch_lines(["*--kvbench-compare ci/kv/: there is no baseline in that folder*"])
    saved = project.run("-n", "0", "--kvbench-save", "ci/kv/")
    saved.stdout.fnmatch_lines(["saved: ci/kv/g.json"])
    file = project.path / "ci/kv/g.json"
    before = file.read_text()
    scores = re.findall(r'^ +"[0-9a-f]{16}": \[[01]\.0, "[^"]+"\],?$', before, re.M)
    assert len(scores) == 60  # of every example of a cell a line
    assert load_baseline(file).name == "g"
    same = project.run("-n", "0", "--kvbench-compare", "./ci/kv", "--kvbench-save", "./ci/kv")
    same.stdout.fnmatch_lines(["g against baseline ./ci/kv: *", "*: no regression"])
    assert file.read_text() == before
    mock.accuracy = lambda policy, budget: 1.0 if budget == 1 else 0.0
    worse = project.run("-n", "0", "--kvbench-fresh", "--kvbench-compare", "ci/kv")
    assert worse.ret == 1
    done = CliRunner().invoke(main, ["compare", "./ci/kv", "g"])
    assert (done.exit_code, "REGRESSIONS" in done.output) == (1, True)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"cells": [', "Expecting value: *"),
        ("[]", "it is of another shape"),
        ('{"schema": 99}', "another schema"),
    ],
)
def test_a_damaged_baseline_is_refused_before_anything_is_asked(
    project: Project, mock: MockServer, content: str, why: str
) -> None:
    file = project.path / "ci" / "g.json"
    file.parent.mkdir()
    file.write_text(content)
    result = project.run("-n", "0", "--kvbench-compare", "./ci")
    assert result.ret == 4
    result.stdout.fnmatch_lines([f"kvbench: ci/g.json: is no baseline: {why}"])
    assert mock.posts == 0


def test_a_worse_run_fails_with_1_though_every_test_passes_and_ci_is_told(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("--kvbench-save", "main")
    mock.accuracy = lambda policy, budget: 1.0 if budget == 1 else 0.0
    page = project.path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    wanted = ("--kvbench-compare", "main", "--kvbench-save", "new", "--junitxml=j.xml")
    result = project.run("--kvbench-fresh", *wanted)
    result.assert_outcomes(passed=6)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*WORSE*", "*REGRESSIONS*", "saved: *new/g.json"])
    suite = ElementTree.parse(project.path / "j.xml").getroot()[0]
    facts = [(p.get("name"), p.get("value", "")) for p in suite.findall("properties/property")]
    assert facts[0][0] == "kvbench_comparison"
    assert facts[0][1].startswith("g against baseline main: ")
    assert "kvbench_regression" in {name for name, _ in facts[1:]}
    assert len(suite.findall("testcase")) == 6
    assert "# g against baseline main" in page.read_text(encoding="utf-8")


def test_a_worse_run_does_not_replace_the_baseline_it_was_compared_with(
    project: Project, mock: MockServer
) -> None:
    project.run("-n", "0", "--kvbench-save", "b")
    file = project.path / "reports/.baselines/b/g.json"
    good = file.read_bytes()
    mock.accuracy = lambda policy, budget: 1.0 if budget == 1 else 0.0
    both = ("--kvbench-compare", "b", "--kvbench-save", "b")
    worse = project.run("-n", "0", "--kvbench-fresh", *both)
    worse.stdout.fnmatch_lines(["baseline b is kept as it was: this run is worse"])
    assert (worse.ret, file.read_bytes()) == (1, good)
    mock.accuracy = lambda policy, budget: 1.0
    assert project.run("-n", "0", "-k", "bin0", "--kvbench-fresh", *both).ret == 0
    assert file.read_bytes() == good  # of half a run
    file.write_bytes(good.replace(b"1.0", b"0.9", 1))
    assert project.run("-n", "0", *both).ret == 0
    assert file.read_bytes() == good  # saved again, and the same where nothing changed


def test_what_was_saved_without_a_treated_answer_is_nothing_to_compare_with(
    project: Project, mock: MockServer
) -> None:
    words = {"arm": ("mine", 0.5), "proves": False}
    with MockServer(trouble=lambda number, body: REFUSED, **words) as treated:
        arms = f"{{none: '{mock.base_url}', 'mine@0.5': '{treated.base_url}'}}"
        file = project.path / "exp.yaml"
        text = file.read_text().replace("snapkv", "mine").replace("0.5, 0.2]", "0.5]")
        text = text.replace("name: local", "name: openai")
        old = f'base_url: "{mock.base_url}"'
        file.write_text(text.replace(old, f"endpoints: {arms}"))
        saved = project.run("-n", "0", "--kvbench-save", "u")
        assert saved.ret == 10
        saved.stdout.fnmatch_lines(["saved with 2 cells not measured: *-bin0-mine-0.50*"])
        treated.trouble, treated.accuracy = lambda number, body: None, lambda policy, budget: 0.0
        compared = project.run("-n", "0", "--kvbench-compare", "u")
    assert compared.ret == 10
    assert "2 cells not compared against baseline u" in compared.outlines[-1]
    compared.stdout.no_fnmatch_line("*no regression*")


def test_an_unknown_baseline_is_refused_before_anything_runs(
    project: Project, mock: MockServer
) -> None:
    project.run("--kvbench-save", "main", "-k", "bin0")
    asked = mock.posts
    result = project.run("--kvbench-compare", "mian", "--kvbench-fresh")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--kvbench-compare mian: there is no such baseline*", "*main*"])
    assert mock.posts == asked


def test_a_group_that_the_baseline_lacks_is_said(project: Project) -> None:
    project.run("--kvbench-save", "main")
    result = project.run("--kvbench-compare", "main", "--kvbench-set", "group=other")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["baseline main has no group other: not compared", "put it there*"])
    assert result.outlines[-1].startswith("kvbench: exit status 4: other: baseline main has no gr")


def test_analyse_takes_the_gate_that_is_set(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run()
    monkeypatch.chdir(project.path)
    done = CliRunner().invoke(main, ["analyse", "g", "--set", "gate.margin=0.95"])
    assert done.exit_code == 0, done.output
    assert "margin 0.95" in done.output
    assert project.summary()["experiment"]["gate"]["margin"] == 0.95


def test_answers_of_another_length_are_another_arms(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    project.run("-n", "0", "--kvbench-save", "main")
    mock.accuracy = lambda policy, budget: 1.0 if budget == 1 else 0.0
    project.run("-n", "0", "--kvbench-set", "sampling.max_tokens=8")
    project.run("-n", "0")
    done = CliRunner().invoke(main, ["compare", "main", "g"])
    assert (done.exit_code, "WORSE" in done.output) == (0, False), done.output
    answers = load_group("reports/g").answers
    names = ["policy", "budget", "sampling", "example_id", "aa", "replicate"]
    assert len(answers) == 120
    assert not answers.duplicated(names).any()


def test_answers_of_other_lengths_are_not_compared(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    project.run("-n", "0", "--kvbench-save", "main")
    shorter = project.run(
        "-n", "0", "--kvbench-set", "sampling.max_tokens=8", "--kvbench-compare", "main"
    )
    assert shorter.ret == 4
    assert "at most 64 new tokens in base, 8 now" in shorter.outlines[-1]
    done = CliRunner().invoke(main, ["compare", "main", "g"])
    assert (done.exit_code, "no regression" in done.output) == (4, False)


def test_two_groups_of_which_nothing_was_measured_are_not_alike(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    mock.wrong, mock.accuracy = "", lambda policy, budget: 0.0
    for group in ("g", "h"):
        assert project.run("-n", "0", "--kvbench-set", f"group={group}").ret == 1
    done = CliRunner().invoke(main, ["compare", "g", "h"])
    assert done.exit_code == 10, done.output
    assert "nothing could be compared: jsonl:words.jsonl-bin0-control: not measured" in done.output
    assert "regression" not in done.output
