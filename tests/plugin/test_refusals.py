"""A wrong key, model or path, and a server that fails all: said once, after a few requests."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse, Response

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.wire import Wire


def write(project: Project, control: str, treated: str) -> None:
    (project.path / "exp.yaml").write_text(
        f"""\
group: g
tasks: ["jsonl:words.jsonl"]
bins: {{n: 2, per_bin: 30, edges: [150]}}
kv: {{policies: [mine], budgets: [1.0]}}
engine:
  name: openai
  model: m
  endpoints: {{none: "{control}", mine: {{base_url: "{treated}", budget: 0.5}}}}
  retries: 0
tokenizer: approximate
"""
    )


def wrong_key(number: int, body: dict[str, Any]) -> Response:
    error = {"message": "Incorrect API key provided: none."}
    return JSONResponse({"error": error}, status_code=401)


def broken(number: int, body: dict[str, Any]) -> Response:
    error = {"message": f"RuntimeError: view size of {number} is not compatible"}
    return JSONResponse({"error": error}, status_code=500)


@pytest.mark.parametrize("key", ["none", "sesame-4711"])
def test_a_wrong_key_costs_one_request_and_is_told_everywhere(
    project: Project, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with Wire(trouble=wrong_key) as control, Wire() as treated:
        write(project, control.base_url, treated.base_url)
        result = project.run("-n", "0", "--kvbench-report")
        assert result.ret == 10
        assert len(control.asked) == 1
        words = "HTTP 401: Incorrect API key provided: none"
        result.stdout.fnmatch_lines([f"kvbench: {words}: http://* refuses every request"])
        result.stdout.fnmatch_lines(["mend the key*", "as above: HTTP 401*"])
        result.stdout.fnmatch_lines([f"1 request failed: 1 x {words}*"])
        assert result.stdout.str().count("mend the key") == 1
        (said,) = project.summary()["integrity"]["messages"]
        assert said["kind"] == "ENGINE_ERROR"
        assert words in said["message"]
        assert words in (project.path / "reports" / "g" / "report.md").read_text()
        control.trouble = lambda number, body: None
        project.run("-n", "0").assert_outcomes(passed=4)
    assert project.summary()["integrity"]["messages"] == []


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_a_server_that_fails_all_is_given_up_after_a_few(project: Project, n: str) -> None:
    with Wire(trouble=broken) as control, Wire(trouble=broken) as treated:
        write(project, control.base_url, treated.base_url)
        result = project.run("-n", n, "--kvbench-report")
        assert result.ret == 10
        assert len(control.asked) + len(treated.asked) < 60
        result.stdout.fnmatch_lines(["120 requests failed: * x HTTP 500: RuntimeError: view*"])
        said = project.summary()["integrity"]["messages"]
        assert any("not asked: the server failed 5 requests alike" in m["message"] for m in said)
        control.trouble = treated.trouble = lambda number, body: None
        project.run("-n", n).assert_outcomes(passed=4)
    assert project.summary()["integrity"]["failures"] == {}


def test_all_stages_report_what_a_server_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with Wire(trouble=wrong_key) as control, Wire() as treated:
        write(project, control.base_url, treated.base_url)
        done = CliRunner().invoke(main, ["all", "exp.yaml"])
    assert done.exit_code == 10
    assert "Incorrect API key" in done.output
    assert "Incorrect API key" in (project.path / "reports" / "g" / "report.md").read_text()


def test_a_run_without_an_answer_says_why_and_is_no_success(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    with Wire(trouble=broken) as control, Wire(trouble=broken) as treated:
        write(project, control.base_url, treated.base_url)
        for stage in ("run", "all"):
            done = CliRunner().invoke(main, [stage, "exp.yaml"])
            assert done.exit_code == 10, done.output
            what, hint = done.stderr.splitlines()
            assert "none of 120 requests was answered: HTTP 500: RuntimeError: view" in what
            assert hint.startswith("mend what it says")
        control.trouble = lambda n, body: None
        treated.trouble = lambda n, body: broken(n, body) if n % 30 == 9 else None
        done = CliRunner().invoke(main, ["run", "exp.yaml"])
        assert done.exit_code == 0, done.output
        assert "requests failed: " in done.output
        assert " x HTTP 500: RuntimeError: view" in done.output
        assert "failed: " not in CliRunner().invoke(main, ["run", "exp.yaml"]).output
