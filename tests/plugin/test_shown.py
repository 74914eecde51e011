"""What is shown of items that fail: whose words, once each, and nothing of the plugin's insides."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from pytest_kvbench.plugin.verdict import Controls
from tests.conftest import Project
from tests.support.mock_server import MockServer

GATE = ("--kvbench-set", "gate.mode=gate", "--kvbench-set", "gate.alpha=0.2")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def failed_items(result: pytest.RunResult) -> list[str]:
    """The lines of the short summary."""
    return [line for line in result.outlines if line.startswith(("ERROR test_", "FAILED test_"))]


def test_a_dead_server_is_one_message_and_short_lines(project: Project) -> None:
    nobody = "engine.base_url=http://127.0.0.1:9/v1"
    result = project.run("-n", "0", "--kvbench-set", nobody)
    result.assert_outcomes(errors=6)
    assert result.ret == 10
    output = result.stdout.str()
    assert output.count("start it: kvbench serve") == 1
    whole = "no server answers at http://127.0.0.1:9/v1/models: [Errno 111] Connection refused"
    full = [line for line in result.outlines if whole in line]
    assert len(full) == 3, "the first item, the group, the exit status"
    others = [line for line in result.outlines if "as above" in line]
    assert len(others) == 5 + 5
    assert max(map(len, others)) <= 80
    assert all(line.endswith(" - as above") for line in failed_items(result)[1:])
    assert "kvbench run FILE.yaml" not in output


def stalled_or_full(number: int, body: dict[str, Any]) -> Response | None:
    """Of five requests one is refused for its memory, and one because of a queue."""
    said = {0: "the scheduler stalled", 1: f"CUDA out of memory: {number} MiB are free"}
    if number % 5 not in said:
        return None
    return JSONResponse({"error": {"message": said[number % 5]}}, status_code=400)


def test_lost_answers_are_told_in_the_words_of_the_server_once_a_kind(
    project: Project, mock: MockServer
) -> None:
    mock.trouble = stalled_or_full
    result = project.run("-n", "0", "--kvbench-report")
    assert result.ret == 10
    kinds = ("x HTTP 400: the scheduler stalled", "x HTTP 400: CUDA out of memory: ")
    full = [line for line in result.outlines if line.startswith("kvbench: ") and "lost to" in line]
    assert all(max(line.count(kind) for line in full) == 1 for kind in kinds)
    head = next(line for line in result.outlines if "requests failed: " in line)
    section = result.outlines[result.outlines.index(head) :][:3]
    assert all(sum(kind in line for line in section) == 1 for kind in kinds)
    assert "see the failures" not in result.stdout.str()
    assert "HTTP 400" in result.outlines[-1], "the exit status says why as well"
    folder = project.path / "reports" / "g"
    messages = project.summary()["integrity"]["messages"]
    assert len(messages) == 2
    assert sum(m["n"] for m in messages) == sum(project.summary()["integrity"]["failures"].values())
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert all(kind.removeprefix("x ") in text for kind in kinds), name


def test_a_failed_gate_shows_its_verdict_and_nothing_of_ours(
    project: Project, mock: MockServer
) -> None:
    mock.accuracy = lambda policy, budget: float(budget == 1)
    result = project.run("-n", "0", *GATE)
    assert result.ret == 1
    verdict = "jsonl:words.jsonl-bin0-snapkv-0.50 breaks: control 1.000, treated 0.000, *"
    result.stdout.fnmatch_lines(["*_ test_quality[[]*bin0-snapkv-0.50[]] _*", verdict])
    for ours in ("MeasuredCell(", "look_up", "pytest_kvbench/", "verdict.py", "Runtime"):
        assert ours not in result.stdout.str()
    assert failed_items(result)
    assert all("] - breaks" in line for line in failed_items(result))
    assert max(map(len, failed_items(result))) <= 80


def test_a_test_of_a_users_shows_its_own_lines_and_short_values(
    project: Project, mock: MockServer
) -> None:
    mock.accuracy = lambda policy, budget: float(budget == 1)
    project.pytester.makepyfile(
        test_exp="""
        import pytest

        @pytest.mark.kvbench("exp.yaml")
        def test_quality(cell, control):
            assert cell.mean > 0.5
        """
    )
    result = project.run("-n", "0", "-k", "bin0-snapkv-0.50")
    result.stdout.fnmatch_lines(
        [
            "cell = <jsonl:words.jsonl-bin0-snapkv-0.50: 10 scores, mean 0.000>",
            "*assert cell.mean > 0.5",
            "E *assert 0.0 > 0.5",
        ]
    )


def test_the_fixture_control_has_a_short_name() -> None:
    assert repr(Controls(lambda cell: cell)) == "<the control of any cell>"
